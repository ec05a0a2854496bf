"""Memory and time of ZeRO's stages on two processes, against plain torch on the same two.

The published model at a reduced width, trained on random numbers by the trainer's own step; each
way in processes of its own, in turn. Memory is what a process holds more than before the model was
built: weights, gradients, moments, and what the stage needs beside them; stage 3 gathers weights
and gradients in buckets that a model of this size fits into whole. What a rank holds of the states
in theory stands beside it. All must end with the same loss. Prints a table and adds it to
runs/bench.json.
"""

import ctypes
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import torch
from rich.console import Console
from rich.table import Table

from bench.step import DIM, NUM_VOXELS, NoData, make_model
from jobs.worker import build_backend
from mindeye_dist.batch import Batch
from mindeye_dist.config import ExperimentConfig
from mindeye_dist.distributed import local_slice, rank, world_size
from mindeye_dist.strict import override
from mindeye_dist.training.objective import HighLevelObjective
from mindeye_dist.training.trainer import Trainer
from tests.forked import run_ranks

ROUNDS, STEPS, RANKS = 3, 4, 2
TOKENS, BATCH, HIDDEN = 17, 8, 512
BYTES = {"torch": 16, "ZeRO 1": 8 + 8 / RANKS, "ZeRO 2": 4 + 12 / RANKS, "ZeRO 3": 16 / RANKS}
"""A parameter's in fp32, by rank: weight and gradient 4 each, moments 8."""


def main(out: Path) -> None:
    """Run the rounds, print the table and write the figures."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in BYTES}
    for _ in range(ROUNDS):
        for name, rows in found.items():
            rows.append(measure(name))
    losses = [row["loss"] for rows in found.values() for row in rows]
    gap = max(losses) / min(losses) - 1
    assert gap < 1e-5, f"stages disagree: {losses}"
    figures = {name: summarise(name, rows, found["torch"]) for name, rows in found.items()}
    out.parent.mkdir(parents=True, exist_ok=True)
    there = json.loads(out.read_text()) if out.exists() else {}
    figures_of_all = {**figures, "largest relative gap of a loss": gap}
    out.write_text(json.dumps({**there, "zero": figures_of_all}, indent=1))
    show(figures, losses)


def measure(name: str) -> dict[str, float]:
    """Return what one way takes, the larger of its ranks'."""
    with tempfile.TemporaryDirectory() as folder:
        run_ranks(train, name, folder, count=RANKS, folder=Path(folder))
        rows = [json.loads(path.read_text()) for path in Path(folder).glob("*.json")]
    assert len(rows) == RANKS
    return {key: max(row[key] for row in rows) for key in rows[0]}


def train(name: str, folder: str) -> None:
    """Be a rank: take steps and write down memory, time and loss."""
    config = configured(name)
    torch.set_num_threads(1)
    process = psutil.Process()
    before = process.memory_info().rss
    model = make_model(config, TOKENS)
    parameters = sum(p.numel() for p in model.parameters())
    scale = model.prior.scale
    trainer = Trainer(
        config=config,
        loader=SimpleNamespace(dataset=NoData()),
        validation=None,
        objective=HighLevelObjective(config, scale),
        backend=build_backend(config, model),
        checkpoints=None,
        about={},
        reports=[],
    )
    seconds = []
    for step in range(STEPS):
        begun = time.perf_counter()
        loss = float(trainer.train_step(make_batch(step), 0)["total"])
        seconds.append(time.perf_counter() - begun)
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what is free is not held
    row = {
        "bytes a parameter": (process.memory_info().rss - before) / parameters,
        "seconds": statistics.median(seconds[1:]),
        "loss": loss,
        "parameters": parameters,
    }
    Path(folder, f"{rank()}.json").write_text(json.dumps(row))


def configured(name: str) -> ExperimentConfig:
    """Return the settings of one way."""
    kind, _, stage = name.partition(" ")
    backend = {"backend": "torch"}
    if kind == "ZeRO":
        backend = {"backend": "deepspeed", "zero_stage": int(stage)}
    changes = {
        "model.backbone.hidden": HIDDEN,
        "training.global_batch_size": BATCH,
        "optimizer.max_lr": 1e-4,
        "compute.num_workers": RANKS,
        **{f"compute.{key}": value for key, value in backend.items()},
    }
    return override(ExperimentConfig(), changes)


def make_batch(step: int) -> Batch:
    """Return this rank's part of a step's batch."""
    draw = torch.Generator().manual_seed(step)
    own = local_slice(BATCH, rank(), world_size())
    tokens = torch.randn(BATCH, TOKENS, DIM, generator=draw)
    return Batch(
        voxels=torch.randn(BATCH, NUM_VOXELS, generator=draw)[own],
        targets={"clip_tokens": tokens[own] / tokens[own, :1].norm(dim=-1, keepdim=True)},
        keys=tuple(map(str, range(BATCH)))[own],
        step=step,
        start=own.start,
        global_size=BATCH,
    )


def summarise(
    name: str, rows: list[dict[str, float]], peers: list[dict[str, float]]
) -> dict[str, object]:
    """Return a way's memory and time, and as ratios to torch's, round by round."""
    figures: dict[str, object] = {"parameters": rows[0]["parameters"], "rounds": len(rows)}
    for key in ("bytes a parameter", "seconds"):
        ratios = [row[key] / peer[key] for row, peer in zip(rows, peers, strict=True)]
        figures[key] = statistics.median(row[key] for row in rows)
        figures[f"{key}, times torch's"] = [min(ratios), statistics.median(ratios), max(ratios)]
    return {**figures, "bytes a parameter, of states": BYTES[name]}


def show(figures: dict[str, dict[str, object]], losses: list[float]) -> None:
    """Print the figures as a table."""
    million = next(iter(figures.values()))["parameters"] / 1e6
    table = Table(
        f"{million:.0f} M parameters on {RANKS} processes",
        "bytes a parameter, each",
        "states alone",
        "times torch's",
        "s a step",
        "times torch's",
    )
    for name, row in figures.items():
        spread = [
            "{1:.2f} ({0:.2f} .. {2:.2f})".format(*row[f"{key}, times torch's"])
            for key in ("bytes a parameter", "seconds")
        ]
        table.add_row(
            name,
            f"{row['bytes a parameter']:.1f}",
            f"{row['bytes a parameter, of states']:.0f}",
            spread[0],
            f"{row['seconds']:.2f}",
            spread[1],
        )
    Console().print(table)
    Console().print(f"loss of the last step: {min(losses):.6f} to {max(losses):.6f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
