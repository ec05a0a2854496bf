"""How long training stands still for a checkpoint, written in the background and at once, in turn.

A plain network of 21 million parameters, 252 MB with its moments, takes the same steps with no
checkpoint, with one that it waits for, and with one in the background. `pause` is what the saving
call takes; `lost` is all that the steps take longer than without a checkpoint, the thread's share
of the processor included. Writes runs/bench.json.
"""

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from mindeye_dist.config import ComputeConfig, OptimizerConfig
from mindeye_dist.runs.checkpoints import Checkpoints, Progress
from mindeye_dist.training.backends.torch_backend import TorchBackend

WIDTH, LAYERS, BATCH = 2048, 5, 32
STEPS, PAIRS = 20, 7
WAYS = {"no checkpoint": "", "at once": "save", "in the background": "start"}
MINUTE = 60.0


def main(out: Path) -> None:
    """Run the ways in turn, print the table and write the figures."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS)))
    out.parent.mkdir(parents=True, exist_ok=True)
    backend = TorchBackend(model, ComputeConfig(), OptimizerConfig())
    batch = torch.randn(BATCH, WIDTH)
    pauses: dict[str, list[float]] = {name: [] for name in WAYS}
    spent: dict[str, list[float]] = {name: [] for name in WAYS}
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        checkpoints = Checkpoints(folder, 1)
        for way in WAYS.values():  # memory of the copies, and of the optimizer, is made once
            take_steps(backend, batch, checkpoints, way)
        for _ in range(PAIRS):
            for name, way in WAYS.items():
                pause, seconds = take_steps(backend, batch, checkpoints, way)
                pauses[name].append(pause)
                spent[name].append(seconds)
        size = sum(f.stat().st_size for f in checkpoints.newest().iterdir())
    figures = {"bytes": size, "pairs": PAIRS, **summarise(pauses, spent)}
    known = json.loads(out.read_text()) if out.exists() else {}
    out.write_text(json.dumps({**known, "checkpoint": figures}, indent=1))
    show(figures)


def take_steps(
    backend: TorchBackend, batch: torch.Tensor, checkpoints: Checkpoints, way: str
) -> tuple[float, float]:
    """Take the steps, with a checkpoint after the second; return its pause and all seconds."""
    pause = 0.0
    begun = time.perf_counter()
    for step in range(STEPS):
        backend.backward((backend.forward(batch) - batch).square().mean())
        backend.step(1e-4, 0.9)
        if step == 1 and way:
            called = time.perf_counter()
            place = Progress(step=checkpoints.last_written_step + 1)
            getattr(checkpoints, way)(place, backend.state(), {"config.json": {}, "a.json": {}})
            pause = time.perf_counter() - called
    checkpoints.wait_for_save()  # nearly always there by now; what is left of it is lost time, too
    return pause, time.perf_counter() - begun


def summarise(
    pauses: dict[str, list[float]], spent: dict[str, list[float]]
) -> dict[str, dict[str, float]]:
    """Return medians in seconds, and as shares of a minute."""
    rows = {}
    for name in list(WAYS)[1:]:
        lost = [a - b for a, b in zip(spent[name], spent["no checkpoint"], strict=True)]
        rows[name] = {
            "pause_s": statistics.median(pauses[name]),
            "pause_min_s": min(pauses[name]),
            "pause_max_s": max(pauses[name]),
            "pause_of_a_minute": statistics.median(pauses[name]) / MINUTE,
            "lost_s": statistics.median(lost),
            "lost_of_a_minute": statistics.median(lost) / MINUTE,
        }
    ratios = [a / b for a, b in zip(pauses["in the background"], pauses["at once"], strict=True)]
    rows["in the background"]["pause_ratio"] = statistics.median(ratios)
    return rows


def show(figures: dict) -> None:
    """Print the figures as a table."""
    megabytes = figures["bytes"] / 1e6
    table = Table(f"checkpoint of {megabytes:.0f} MB", "pause", "range", "of a minute", "all lost")
    for name in list(WAYS)[1:]:
        row = figures[name]
        table.add_row(
            name,
            f"{row['pause_s']:.2f} s",
            f"{row['pause_min_s']:.2f} .. {row['pause_max_s']:.2f} s",
            f"{row['pause_of_a_minute']:.2%}",
            f"{row['lost_of_a_minute']:.2%}",
        )
    Console().print(table)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
