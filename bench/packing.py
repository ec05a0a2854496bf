"""K trials of one shape fused in one process (batched weights) against K solo runs, in turn.

The demo's model, its losses of the later epochs, a temperature of its own for each trial, AdamW;
dropout off, so that both must end with the same weights. Adds the ratio to runs/bench.json.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap

from jobs.recipes import recipe
from mindeye_dist.models.build import build_model
from mindeye_dist.models.mindeye import PriorDraw
from mindeye_dist.shapes import Shapes, TargetShape
from mindeye_dist.strict import override
from mindeye_dist.training.losses import soft_clip

NUM_VOXELS, TOKENS, DIM = 4000, 50, 55
PAIRS, STEPS, COUNTS = 5, 4, (2, 4, 8)
Step = Callable[[], None]


def main(out: Path) -> None:
    """Run the pairs for each number of trials, print the ratios and add them to those there."""
    figures = [measure(count) for count in COUNTS]
    there = json.loads(out.read_text()) if out.exists() else {}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(there | {"packing": figures}, indent=1))
    table = Table("trials", "solo, steps/s", "fused", "fused, times solo", "range", "largest gap")
    for row in figures:
        spread = f"{row['ratio_min']:.2f} .. {row['ratio_max']:.2f}"
        table.add_row(
            str(row["trials"]),
            f"{row['solo']:.1f}",
            f"{row['fused']:.1f}",
            f"{row['ratio']:.2f}",
            spread,
            f"{row['gap']:.1e}",
        )
    Console().print(table)


def measure(count: int) -> dict[str, float]:
    """Return trials' steps/s both ways, the ratios, and how far the weights are apart after it."""
    batch = make_batch()
    temperatures = torch.linspace(0.004, 0.02, count)
    solo, models = make_solo(batch, temperatures)
    fused, stacked = make_fused(batch, temperatures)
    rates: dict[str, list[float]] = {"solo": [], "fused": []}
    for pair in range(PAIRS + 1):
        for name, step in (("solo", solo), ("fused", fused)):
            begun = time.perf_counter()
            for _ in range(STEPS):
                step()
            if pair:  # the first pays for what is set up lazily
                rates[name].append(count * STEPS / (time.perf_counter() - begun))
    gap = max(
        float((stacked[name][number] - weight).detach().abs().max())
        for number, model in enumerate(models)
        for name, weight in model.named_parameters()
    )
    ratios = [f / s for f, s in zip(rates["fused"], rates["solo"], strict=True)]
    return {
        "trials": count,
        **{name: statistics.median(values) for name, values in rates.items()},
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "gap": gap,
    }


def make_batch() -> tuple[Tensor, Tensor, PriorDraw]:
    """Return voxels, clip_tokens and the prior's draw of one batch."""
    config = recipe("demo-sweep")
    size = config.training.global_batch_size
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(size, TOKENS, DIM, generator=generator)
    none = torch.zeros(size, dtype=torch.bool)
    return (
        torch.randn(size, NUM_VOXELS, generator=generator),
        tokens,
        PriorDraw(
            timestep=torch.randint(0, config.model.prior.timesteps, (size,), generator=generator),
            noise=torch.randn(size, TOKENS, DIM, generator=generator),
            drop_condition=none,
            drop_tokens=none,
        ),
    )


def make_model(number: int) -> nn.Module:
    """Return a trial's model as it starts, without dropout."""
    config = override(recipe("demo-sweep"), {"training.seed": number})
    target = TargetShape((TOKENS, DIM), "random", "")
    model = build_model(config, Shapes(num_voxels=NUM_VOXELS, targets={"clip_tokens": target}))
    return model.eval()


def loss_of(outputs: object, tokens: Tensor, temperature: Tensor) -> Tensor:
    """Return SoftCLIP and the prior's error, weighted as published."""
    contrastive = soft_clip(outputs.projected.flatten(1), tokens.flatten(1), temperature)
    return contrastive + 30 * (outputs.pred_x_0 - DIM**0.5 * tokens).square().mean()


def make_solo(
    batch: tuple[Tensor, Tensor, PriorDraw], temperatures: Tensor
) -> tuple[Step, list[nn.Module]]:
    """Return a step of every trial, one after the other, and their models."""
    models = [make_model(number) for number in range(len(temperatures))]
    optimizers = [torch.optim.AdamW(model.parameters(), lr=1e-4) for model in models]

    def step() -> None:
        for model, optimizer, temperature in zip(models, optimizers, temperatures, strict=True):
            optimizer.zero_grad()
            loss_of(model(*batch), batch[1], temperature).backward()
            optimizer.step()

    return step, models


def make_fused(
    batch: tuple[Tensor, Tensor, PriorDraw], temperatures: Tensor
) -> tuple[Step, dict[str, Tensor]]:
    """Return a step of all trials at once, and their stacked weights."""
    models = [make_model(number) for number in range(len(temperatures))]
    weights, buffers = stack_module_state(models)
    stacked = {name: nn.Parameter(weight.detach()) for name, weight in weights.items()}
    optimizer = torch.optim.AdamW(stacked.values(), lr=1e-4)
    shape = models[0]

    def loss(own: dict[str, Tensor], others: dict[str, Tensor], temperature: Tensor) -> Tensor:
        return loss_of(functional_call(shape, (own, others), batch), batch[1], temperature)

    gradients = vmap(grad(loss), randomness="error")

    def step() -> None:
        found = gradients({k: v.detach() for k, v in stacked.items()}, buffers, temperatures)
        for name, weight in stacked.items():
            weight.grad = found[name]
        optimizer.step()

    return step, stacked


if __name__ == "__main__":
    main(Path(sys.argv[1]))
