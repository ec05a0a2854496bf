"""Step time of the same small run, untracked and with an MLflow that is down, run in turn.

Down in two ways: nobody listens at the address, or somebody takes connections and never answers.
Every step is reported, ten times as often as by default. A round is each way once, in an order that
turns; ratios are to the untracked run of the same round, and two untracked ones show what the
machine itself does. Where that is more than what is asked for, the share of the time that the
thread which speaks to MLflow computes is the most that it can cost a step. Adds the figures to
runs/bench.json.
"""

import json
import logging
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from rich.console import Console
from rich.table import Table

from jobs.tracking import session
from jobs.tracking.session import tracked
from jobs.worker import worker
from mindeye_dist.config import ExperimentConfig
from mindeye_dist.runs.journal import read_journal
from mindeye_dist.strict import override
from tests.conftest import tiny_run, write_tiny_subject
from tests.s3 import free_ports

ROUNDS, STEPS, SKIPPED = 4, 600, 20
NUM_VOXELS, SAMPLES = 4000, 240
WAYS = ("off", "off again", "nobody listens", "never answers")


def main(out: Path) -> None:
    """Run the rounds, print the ratios and add them to those there."""
    logging.disable(logging.WARNING)  # each run would say that MLflow is down
    session.FLUSH_SECONDS = 1.0  # what the end waits is not a step's time
    with tempfile.TemporaryDirectory() as folder:
        write_tiny_subject(f"{folder}/shards", NUM_VOXELS, {"train": SAMPLES, "val": 7, "test": 1})
        config = bench_run(Path(folder))
        times: dict[str, list[float]] = {way: [] for way in WAYS}
        shares: dict[str, list[float]] = {way: [] for way in WAYS}
        for number in range(ROUNDS + 1):
            turn = number % len(WAYS)
            for way in (*WAYS[turn:], *WAYS[:turn]):
                own = override(config, {"run_dir": f"{folder}/{number}-{way}"})
                took, share = step_time(own, way)
                if number:  # the first pays for what is set up lazily
                    times[way].append(took)
                    shares[way].append(share)
    figures = summarise(times, shares)
    there = json.loads(out.read_text()) if out.exists() else {}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(there | {"tracking": figures}, indent=1))
    show(figures)


def bench_run(folder: Path) -> ExperimentConfig:
    """Return a run of some milliseconds a step, which reports every one."""
    config = tiny_run(folder / "shards", folder / "run")
    batch = config.training.global_batch_size
    changes = {
        "model.backbone.hidden": 256,
        "training.epochs": -(-STEPS * batch // SAMPLES),
        "training.validate_every_epochs": 1000,
        "checkpoint.every_steps": 100_000,
    }
    return override(config, changes)


def step_time(config: ExperimentConfig, way: str) -> tuple[float, float]:
    """Train; return the seconds of a step, after the first few, and the tracking thread's share."""
    computed = [0.0]
    deliver = session.Tracker._deliver

    def counted(tracker: session.Tracker, *given: Any) -> None:
        try:
            deliver(tracker, *given)
        finally:
            computed.append(time.thread_time())

    begun = time.perf_counter()
    with address(way) as mlflow, mock.patch.object(session.Tracker, "_deliver", counted):
        config = override(config, {"tracking.mlflow": mlflow})
        with tracked(config) as reports:
            worker(config, reports)
    rows = [row for row in read_journal(config.run_dir) if "train/total" in row]
    first, last = rows[SKIPPED], rows[STEPS - 1]
    took = (last["time"] - first["time"]) / (last["step"] - first["step"])
    return took, max(computed) / (time.perf_counter() - begun)


@contextmanager
def address(way: str) -> Iterator[str]:
    """Give where MLflow ought to be; what never answers is gone afterwards, with its callers."""
    if way.startswith("off"):
        yield "off"
    elif way == "nobody listens":
        yield f"http://127.0.0.1:{free_ports(1)[0]}"
    else:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            yield f"http://127.0.0.1:{silent.getsockname()[1]}"


def summarise(
    times: dict[str, list[float]], shares: dict[str, list[float]]
) -> dict[str, dict[str, float]]:
    """Return each way's median step, its ratio to the untracked run's by round, and its share."""
    ratios = {
        way: [own / off for own, off in zip(values, times["off"], strict=True)]
        for way, values in times.items()
    }
    return {
        way: {
            "step_ms": 1000 * statistics.median(values),
            "ratio": statistics.median(ratios[way]),
            "ratio_min": min(ratios[way]),
            "ratio_max": max(ratios[way]),
            "thread_share": max(shares[way]),
            "pairs": len(values),
        }
        for way, values in times.items()
    }


def show(figures: dict[str, dict[str, float]]) -> None:
    """Print the figures as a table."""
    table = Table("MLflow", "ms a step", "times off", "range", "pairs", "its thread, most")
    for way, row in figures.items():
        spread = f"{row['ratio_min']:.3f} .. {row['ratio_max']:.3f}"
        share = f"{100 * row['thread_share']:.2f} %"
        step, ratio = f"{row['step_ms']:.2f}", f"{row['ratio']:.3f}"
        table.add_row(way, step, ratio, spread, str(row["pairs"]), share)
    Console().print(table)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
