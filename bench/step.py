"""The training step with cached targets against a loop that embeds the pictures in every step.

    python -m bench.step runs/bench.json [--full --device cuda --precision bf16 --batch 32]

Ours: targets from memory, one pass over weights and moments for AdamW, nothing computed in the
prior's last layer that is not used. The reference loop, our own after the published one: the same
model, data and loss, CLIP's tower on every batch, an AdamW of many passes, the prior's last layer
whole. Steps are taken in turn; losses must agree at each. Left out, and so a gain of ours that is
not counted: the published loop's loading, augmentation and synchronous saving.

By default reduced: hidden 1024 and 65 tokens, the tower that of ViT-L/14 on pictures of 112 pixels
(64 patches), which keeps the tower's share of the arithmetic: 162 to 188. `--full` is the published
model, 1.0 billion parameters, with the tower on 224 pixels.
"""

import copy
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Literal
from unittest import mock

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from mindeye_dist.batch import Batch
from mindeye_dist.config import ExperimentConfig
from mindeye_dist.frozen.clip import _tower
from mindeye_dist.models.build import build_model
from mindeye_dist.models.prior import Prior
from mindeye_dist.shapes import Shapes, TargetShape
from mindeye_dist.strict import override
from mindeye_dist.training.backends import torch_backend as backends
from mindeye_dist.training.backends.torch_backend import TorchBackend
from mindeye_dist.training.objective import HighLevelObjective
from mindeye_dist.training.optimizer import parameter_groups
from mindeye_dist.training.trainer import Trainer

NUM_VOXELS, DIM, BATCHES = 15_724, 768, 2
TOWER = {"patch_size": 14, "width": 1024, "layers": 24, "head_width": 64}


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is timed."""

    out: Annotated[Path, tyro.conf.Positional]
    full: bool = False
    """The published width, with which 40 GB of memory are used."""
    device: Literal["cpu", "cuda"] = "cpu"
    precision: Literal["fp32", "bf16"] = "fp32"
    batch: int = 32
    pairs: int = 5
    """Steps of each, in turn, after one that is not counted."""


def main(options: Options) -> None:
    """Time the steps, print the table and write the figures."""
    torch.backends.cuda.matmul.allow_tf32 = True
    config = configured(options)
    side, count = (224, 257) if options.full else (112, 65)
    tower = make_tower(side).to(options.device)
    model = make_model(config, count)
    peer = copy.deepcopy(model)
    peer.prior.forward = whole_layers.__get__(peer.prior)
    batches = [make_batch(options, tower, side, count, number) for number in range(BATCHES)]
    ours = make_step(config, model, slim=True)
    theirs = make_step(config, peer, slim=False)
    seconds: dict[str, list[float]] = {"reference": [], "ours": []}
    gap = 0.0
    for pair in range(options.pairs + 1):
        batch, pixels = batches[pair % BATCHES]
        batch = replace(batch, step=pair)

        def embedding(batch: Batch = batch, pixels: Tensor = pixels) -> Tensor:
            return theirs(replace(batch, targets={"clip_tokens": embed(tower, pixels, options)}))

        runs = {"reference": embedding, "ours": lambda batch=batch: ours(batch)}
        losses = {name: timed(run, seconds[name], options.device) for name, run in runs.items()}
        gap = max(gap, abs(losses["ours"] / losses["reference"] - 1))
    figures = summarise(options, seconds, gap, sum(p.numel() for p in model.parameters()))
    name = f"step-{'full' if options.full else 'reduced'}-{options.device}-{options.batch}"
    options.out.parent.mkdir(parents=True, exist_ok=True)
    found = json.loads(options.out.read_text()) if options.out.exists() else {}
    options.out.write_text(json.dumps({**found, name: figures}, indent=1))
    show(name, figures)


def configured(options: Options) -> ExperimentConfig:
    """Return the published model's settings, at the width that is asked for."""
    changes = {
        "model.backbone.hidden": 4096 if options.full else 1024,
        "training.global_batch_size": options.batch,
        "compute.device": options.device,
        "compute.precision": options.precision,
        "optimizer.max_lr": 1e-4,
    }
    return override(ExperimentConfig(), changes)


def make_tower(side: int) -> nn.Module:
    """Return ViT-L/14's visual tower with random weights, for pictures of `side` pixels."""
    vision = {**TOWER, "image_size": side}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tower = _tower({"vision_cfg": vision, "embed_dim": DIM, "quick_gelu": True})
    return tower.eval().requires_grad_(False)


def make_model(config: ExperimentConfig, count: int) -> nn.Module:
    """Return the model, as it starts."""
    shapes = Shapes(
        num_voxels=NUM_VOXELS, targets={"clip_tokens": TargetShape((count, DIM), "random", "")}
    )
    return build_model(config, shapes)


@torch.no_grad()
def embed(tower: nn.Module, pixels: Tensor, options: Options) -> Tensor:
    """Return a batch's clip_tokens, as stored ones are: over token 0's norm, in half precision."""
    with torch.autocast(options.device, torch.bfloat16, enabled=options.precision == "bf16"):
        embedding, patches = tower(pixels)
        tokens = torch.cat([embedding[:, None], patches @ tower.proj], dim=1)
    tokens = tokens.float()
    return (tokens / tokens[:, :1].norm(dim=-1, keepdim=True)).half().float()


def make_batch(
    options: Options, tower: nn.Module, side: int, count: int, number: int
) -> tuple[Batch, Tensor]:
    """Return a batch with its targets, and the pictures that they are of."""
    draw = torch.Generator().manual_seed(number)
    pixels = torch.randn(options.batch, 3, side, side, generator=draw).to(options.device)
    batch = Batch(
        voxels=torch.randn(options.batch, NUM_VOXELS, generator=draw),
        targets={"clip_tokens": embed(tower, pixels, options)},
        keys=tuple(map(str, range(options.batch))),
        step=0,
        start=0,
        global_size=options.batch,
    )
    assert batch.targets["clip_tokens"].shape == (options.batch, count, DIM)
    return batch, pixels


def whole_layers(
    prior: Prior, x_t: Tensor, timestep: Tensor, condition: Tensor, *dropped: Tensor
) -> Tensor:
    """Be the prior's forward with every layer whole."""
    layers, last = prior.layers, prior.layers[-1]
    forward = last.forward
    try:
        last.forward = lambda x, bias, kept: forward(x, bias)[:, -kept:]
        return Prior.forward(prior, x_t, timestep, condition, *dropped)
    finally:
        layers[-1].forward = forward


class NoData:
    """As many samples as a subject has, of which none is read."""

    samples = ()

    def __len__(self) -> int:
        return 8859


def make_step(
    config: ExperimentConfig, model: nn.Module, *, slim: bool
) -> Callable[[Batch], Tensor]:
    """Return what takes a training step on a batch and gives its loss."""
    build = backends.build_optimizer if slim else unfused
    with mock.patch.object(backends, "build_optimizer", build):
        backend = TorchBackend(model, config.compute, config.optimizer)
    trainer = Trainer(
        config=config,
        loader=SimpleNamespace(dataset=NoData()),
        validation=None,
        objective=HighLevelObjective(config, model.prior.scale),
        backend=backend,
        checkpoints=None,
        about={},
        reports=[],
    )
    return lambda batch: trainer.train_step(batch, 0)["total"]


def unfused(model: nn.Module, config: object) -> torch.optim.AdamW:
    """Return AdamW as PyTorch makes it where nothing is asked for."""
    groups = parameter_groups(model, config)
    return torch.optim.AdamW(groups, lr=0.0, eps=config.eps, betas=(0.95, 0.999))


def timed(run: Callable[[], Tensor], seconds: list[float], device: str) -> float:
    """Take a step, note its seconds and return its loss."""
    begun = time.perf_counter()
    loss = float(run().detach())
    if device == "cuda":
        torch.cuda.synchronize()
    seconds.append(time.perf_counter() - begun)
    return loss


def summarise(
    options: Options, seconds: dict[str, list[float]], gap: float, parameters: int
) -> dict[str, object]:
    """Return the figures, without the first pair."""
    kept = {name: values[1:] for name, values in seconds.items()}
    ratios = [a / b for a, b in zip(kept["reference"], kept["ours"], strict=True)]
    return {
        "parameters": parameters,
        "batch": options.batch,
        "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
        "precision": options.precision,
        **{f"{name} s": statistics.median(values) for name, values in kept.items()},
        "ratio": statistics.median(ratios),
        "ratio range": [min(ratios), max(ratios)],
        "pairs": len(ratios),
        "largest relative gap of a loss": gap,
    }


def show(name: str, figures: dict[str, object]) -> None:
    """Print the figures as a table."""
    table = Table(name, "")
    for key, value in figures.items():
        table.add_row(key, f"{value:.3g}" if isinstance(value, float) else str(value))
    Console().print(table)


if __name__ == "__main__":
    main(tyro.cli(Options))
