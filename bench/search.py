"""Benchmark of ASHA against random search: epochs that each trains for an equally good trial.

Both see the same random settings of the default space in the same order, on the simulated task.
Every trial is trained once for all its epochs, and both searches are replayed from these curves,
ASHA by Tune's scheduler on two slots. One `seed` is one order. Adds the results to
runs/bench.json.
"""

import json
import random
import statistics
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from jobs.options.simulate import Simulate
from jobs.recipes import recipe
from jobs.sweeps.search import EPOCH, SCORE, asha
from jobs.sweeps.spaces import draw, read_space, trial_config
from jobs.work.simulate import simulate
from jobs.worker import worker
from mindeye_dist.data.manifest import MANIFEST
from mindeye_dist.runs.journal import read_journal
from mindeye_dist.simulation.config import SimulationConfig
from mindeye_dist.storage.store import Store
from mindeye_dist.strict import override

POOL, TRIALS, SEEDS, SLOTS, GRACE, FACTOR = 32, 12, 20, 2, 2, 3
Curves = list[list[float]]


def main(out: Path, folder: Path) -> None:
    """Train the missing trials of the pool, replay both searches and print the ratio."""
    if not Store(str(folder / "data")).exists(MANIFEST):
        small = SimulationConfig(num_voxels=1500)
        simulate(
            Simulate(
                out=str(folder / "data"),
                train_pictures=800,
                val_pictures=200,
                test_pictures=20,
                simulation=small,
            )
        )
    curves = [train_once(folder, number) for number in track(range(POOL), "training the pool")]
    epochs = len(curves[0])
    rows = [replay(curves, epochs, seed) for seed in range(SEEDS)]
    figures = {
        "pool": POOL,
        "trials_of_random_search": TRIALS,
        "epochs": epochs,
        "seeds": rows,
        "reached": sum(row["asha"] is not None for row in rows),
        "ratio_to_whole_search": median(rows, "all"),
        "ratio_to_first_reached": median(rows, "random"),
    }
    earlier = json.loads(out.read_text()) if out.exists() else {}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(earlier | {"search": figures}, indent=1))
    show(figures)


def train_once(folder: Path, number: int) -> list[float]:
    """Return a random trial's score by epoch; train it unless an earlier call did."""
    run_dir = folder / "pool" / f"{number:03d}"
    base = override(
        recipe("demo-sweep"),
        {"run_dir": str(run_dir), "data.url": str(folder / "data"), "tracking.mlflow": "off"},
    )
    space = read_space("schedule+size", base)
    config = trial_config(base, draw(space, random.Random(number)))
    if len(scores(run_dir)) < config.training.epochs:
        worker(config)
    return scores(run_dir)


def scores(run_dir: Path) -> list[float]:
    """Return the scores in a journal."""
    return [row["val/score"] for row in read_journal(str(run_dir)) if "val/score" in row]


def replay(curves: Curves, epochs: int, seed: int) -> dict[str, Any]:
    """Return the epochs that each search trained until random search's best score."""
    order = random.Random(seed).sample(range(len(curves)), len(curves))
    finals = [curves[number][-1] for number in order[:TRIALS]]
    highest = max(finals)
    return {
        "best": highest,
        "random": (finals.index(highest) + 1) * epochs,
        "all": TRIALS * epochs,
        "asha": replay_asha([curves[number] for number in order], epochs, highest),
    }


def replay_asha(curves: Curves, epochs: int, target: float) -> int | None:
    """Return the epochs that ASHA trained until a whole trial had the target score, if any had."""
    scheduler = asha(Path("none"), epochs=epochs, grace=GRACE, factor=FACTOR)
    waiting = [(SimpleNamespace(trial_id=str(n)), curve) for n, curve in enumerate(curves)][::-1]
    running: list[list[Any]] = []
    trained_epochs = 0
    while waiting or running:
        while waiting and len(running) < SLOTS:
            trial, curve = waiting.pop()
            scheduler.on_trial_add(None, trial)
            running.append([trial, curve, 0])
        for place in list(running):
            trial, curve, epoch = place
            trained_epochs += 1
            place[2] = epoch + 1
            result = {EPOCH: epoch + 1, SCORE: curve[epoch]}
            decision = scheduler.on_trial_result(None, trial, result)
            if epoch + 1 == epochs and curve[epoch] >= target:
                return trained_epochs
            if epoch + 1 == epochs or decision == "STOP":
                scheduler.on_trial_complete(None, trial, result)
                running.remove(place)
    return None


def median(rows: list[dict[str, Any]], compared: str) -> float:
    """Return the median over seeds of ASHA's training as a share of random search's.

    A seed for which ASHA never had the score counts as infinite.
    """
    return statistics.median(
        row["asha"] / row[compared] if row["asha"] is not None else float("inf") for row in rows
    )


def show(figures: dict[str, Any]) -> None:
    """Print the figures as a table."""
    table = Table("seed", "best score", "random had it after", "of", "ASHA after", "share of all")
    for seed, row in enumerate(figures["seeds"]):
        asha = row["asha"]
        share = f"{asha / row['all']:.0%}" if asha is not None else ""
        own = "never" if asha is None else f"{asha} epochs"
        table.add_row(
            str(seed), f"{row['best']:.3f}", f"{row['random']}", f"{row['all']}", own, share
        )
    Console().print(table)
    Console().print(
        f"median: {figures['ratio_to_whole_search']:.2f} of the whole search, "
        f"{figures['ratio_to_first_reached']:.2f} of what random search needed to find it; "
        f"reached for {figures['reached']} of {len(figures['seeds'])} seeds"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
