"""Successive halving against random search: training that each needs for an equally good trial.

Both meet the same random settings of the default space in the same order, on the simulated task;
every trial is really trained once, whole, and both searches are replayed from these curves, ASHA by
Tune's own scheduler on two slots. One `seed` is one order. Adds the figures to runs/bench.json.
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

from jobs.recipes import recipe
from jobs.search import EPOCH, SCORE, scheduler
from jobs.simulate import Simulate, simulate
from jobs.spaces import draw, read_space, trial_config
from jobs.worker import worker
from mindeye_dist.data.shards import MANIFEST
from mindeye_dist.data.store import Store
from mindeye_dist.engine.journal import read_journal
from mindeye_dist.simulation_config import SimulationConfig
from mindeye_dist.strict import override

POOL, TRIALS, SEEDS, SLOTS, GRACE, FACTOR = 32, 12, 20, 2, 2, 3
Curves = list[list[float]]


def main(out: Path, folder: Path) -> None:
    """Train the pool where it is not there yet, replay both searches and print the ratio."""
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
    curves = [trained(folder, number) for number in track(range(POOL), "training the pool")]
    epochs = len(curves[0])
    rows = [replay(curves, epochs, seed) for seed in range(SEEDS)]
    figures = {
        "pool": POOL,
        "trials_of_random_search": TRIALS,
        "epochs": epochs,
        "seeds": rows,
        "reached": sum(row["asha"] is not None for row in rows),
        "ratio_to_whole_search": median(rows, "all"),
        "ratio_to_when_it_was_found": median(rows, "random"),
    }
    there = json.loads(out.read_text()) if out.exists() else {}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(there | {"search": figures}, indent=1))
    show(figures)


def trained(folder: Path, number: int) -> list[float]:
    """Return the scores of a random trial by epoch, trained now or before."""
    run_dir = folder / "pool" / f"{number:03d}"
    base = override(
        recipe("demo-sweep"),
        {"run_dir": str(run_dir), "data.url": str(folder / "data"), "tracking.mlflow": "off"},
    )
    space = read_space("schedule+size", base)
    config = trial_config(base, draw(space, random.Random(number)))
    done = scores(run_dir)
    if len(done) < config.training.epochs:
        worker(config)
    return scores(run_dir)


def scores(run_dir: Path) -> list[float]:
    """Return the scores in a journal."""
    return [row["val/score"] for row in read_journal(str(run_dir)) if "val/score" in row]


def replay(curves: Curves, epochs: int, seed: int) -> dict[str, Any]:
    """Return the epochs that each search trained until it had random search's best score."""
    order = random.Random(seed).sample(range(len(curves)), len(curves))
    finals = [curves[number][-1] for number in order[:TRIALS]]
    best = max(finals)
    return {
        "best": best,
        "random": (finals.index(best) + 1) * epochs,
        "all": TRIALS * epochs,
        "asha": halving([curves[number] for number in order], epochs, best),
    }


def halving(curves: Curves, epochs: int, wanted: float) -> int | None:
    """Return the epochs that ASHA trained until a whole trial scored as wanted, if one did."""
    judge = scheduler("asha", {}, epochs=epochs, grace=GRACE, factor=FACTOR, seed=0)
    waiting = [(SimpleNamespace(trial_id=str(n)), curve) for n, curve in enumerate(curves)][::-1]
    running: list[list[Any]] = []
    trained_epochs = 0
    while waiting or running:
        while waiting and len(running) < SLOTS:
            trial, curve = waiting.pop()
            judge.on_trial_add(None, trial)
            running.append([trial, curve, 0])
        for place in list(running):
            trial, curve, epoch = place
            trained_epochs += 1
            place[2] = epoch + 1
            told = {EPOCH: epoch + 1, SCORE: curve[epoch]}
            verdict = judge.on_trial_result(None, trial, told)
            if epoch + 1 == epochs and curve[epoch] >= wanted:
                return trained_epochs
            if epoch + 1 == epochs or verdict == "STOP":
                judge.on_trial_complete(None, trial, told)
                running.remove(place)
    return None


def median(rows: list[dict[str, Any]], compared: str) -> float:
    """Return the median over seeds of ASHA's training as a share of random search's.

    Where it never came there, all the training that it had counts as if it were endless.
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
        f"{figures['ratio_to_when_it_was_found']:.2f} of what random search needed to find it; "
        f"reached for {figures['reached']} of {len(figures['seeds'])} seeds"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
