"""SIGKILLs at random moments: every run ends with the undisturbed run's bits, no sample lost.

Runs of the small recipe, in one process and in two, are killed at seeded moments: at any time, or
while a checkpoint is being written, or by an error in a thread that reads. Each is started again
until it has met its share of kills, then left to end. Oracles: the undisturbed run's weights, and
its ledger of (step, samples); a step that was done again after a kill counts once, and must have
had the same samples each time.
"""

import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from math import inf
from pathlib import Path
from unittest import mock

import torch

from chaos.record import NEVER, record
from jobs.worker import worker
from mindeye_dist.config import ExperimentConfig
from mindeye_dist.data.dataset import Dataset
from mindeye_dist.distributed import rank
from mindeye_dist.errors import DataError
from mindeye_dist.runs.checkpoints import Checkpoints, read_weights
from mindeye_dist.strict import override
from mindeye_dist.training.trainer import Trainer
from tests.conftest import tiny_run, write_tiny_subject
from tests.forked import start, start_ranks

KINDS = ("any moment", "while saving", "a thread that reads")
KILLS = 100
SMALL = {
    "training.epochs": 12,
    "training.validate_every_epochs": 3,
    "checkpoint.every_steps": 4,
}


def run(kills: int = KILLS, seed: int = 0, each: int = 5) -> dict[str, object]:
    """Kill runs so many times in all, each that often at most; return what came of them."""
    draw, made = random.Random(seed), Counter()
    figures = {"kills": 0, "runs": 0, "other weights": 0, "other ledgers": 0, "steps done again": 0}
    with tempfile.TemporaryDirectory() as folder:
        write_tiny_subject(f"{folder}/shards")
        base = override(tiny_run(f"{folder}/shards", f"{folder}/whole"), SMALL)
        whole = {count: undisturbed(base, count, Path(folder)) for count in (1, 2)}
        number = 0
        while figures["kills"] < kills:
            count = 1 + number % 2
            changes = {"run_dir": f"{folder}/run-{number}", "compute.num_workers": count}
            config = override(base, changes)
            weights, ledger, seconds = whole[count]
            for _ in range(min(each, kills - figures["kills"])):
                kind = draw.choice(KINDS)
                if not kill_once(config, kind, draw.uniform(0, seconds), draw):
                    break  # it had come to its end
                made[kind] += 1
                figures["kills"] += 1
            finish(config)
            figures["runs"] += 1
            figures["other weights"] += differs(weights, config)
            found, again = read_ledger(config)
            figures["other ledgers"] += found != ledger
            figures["steps done again"] += again
            number += 1
    return {**figures, **{f"killed at {kind}": made[kind] for kind in KINDS}}


def undisturbed(base: ExperimentConfig, count: int, folder: Path) -> tuple[dict, dict, float]:
    """Return the weights, the ledger and the seconds of a run that nothing befalls."""
    changes = {"run_dir": str(folder / f"whole-{count}"), "compute.num_workers": count}
    config = override(base, changes)
    begun = time.monotonic()
    finish(config)
    ledger, again = read_ledger(config)
    assert not again
    return weights_of(config), ledger, time.monotonic() - begun


def finish(config: ExperimentConfig) -> None:
    """Run to the end."""
    for process in begin(config):
        process.join()
        assert process.exitcode == 0, said(config).read_text()[-3000:]


def begin(config: ExperimentConfig, poisoned: int = -1) -> list:
    """Start a run's processes."""
    if config.compute.num_workers == 1:
        return [start(train, config, poisoned, said=said(config))]
    folder = Path(config.run_dir).parent
    return start_ranks(train, config, poisoned, count=config.compute.num_workers, folder=folder)


def said(config: ExperimentConfig) -> Path:
    """Return the file that takes what a process says."""
    return Path(config.run_dir).parent / "said.log"


def kill_once(config: ExperimentConfig, kind: str, wait: float, draw: random.Random) -> bool:
    """Start a run and kill one of its processes; return whether it was still at work."""
    thread = kind == "a thread that reads"
    processes = begin(config, poisoned=draw.randrange(1, 60) if thread else -1)
    deadline = time.monotonic() + wait
    victim = draw.choice(processes)
    saving = Path(config.run_dir, "checkpoints")
    while all(process.is_alive() for process in processes):
        if kind == "while saving" and any(saving.glob(".writing-*")):
            break
        if kind == "any moment" and time.monotonic() > deadline:
            break
        time.sleep(0.001)
    working = victim.is_alive()
    if working:
        victim.kill()
    victim.join()
    failed = working or victim.exitcode != 0
    for process in processes:  # what is left of a group cannot go on: Ray and torchrun end it
        process.kill()
        process.join()
    return failed


def train(config: ExperimentConfig, poisoned: int) -> None:
    """Be one process of a run, which keeps a ledger; the read of one step may fail."""
    file = Path(f"{config.run_dir}-ledger-{rank()}.jsonl")
    taken, fetched = Trainer.train_step, Dataset.voxels
    reads = iter(range(sys.maxsize))

    def kept(trainer, batch, epoch):
        losses = taken(trainer, batch, epoch)
        with file.open("a") as ledger:
            ledger.write(json.dumps([batch.step, batch.start, batch.keys]) + "\n")
        return losses

    def read(dataset, indices):
        if next(reads) == poisoned:
            raise DataError("a thread that reads was made to fail")
        return fetched(dataset, indices)

    with mock.patch.object(Trainer, "train_step", kept), mock.patch.object(Dataset, "voxels", read):
        try:
            worker(config)
        except DataError:
            os._exit(3)


def read_ledger(config: ExperimentConfig) -> tuple[dict[tuple[int, int], list[str]], int]:
    """Return the samples of each step and part, and how many were done again.

    Raises:
        AssertionError: a step that was done again had other samples.
    """
    done: dict[tuple[int, int], list[str]] = {}
    again = 0
    for number in range(config.compute.num_workers):
        file = Path(f"{config.run_dir}-ledger-{number}.jsonl")
        for line in file.read_text().splitlines():
            step, first, keys = json.loads(line)
            again += (step, first) in done
            assert done.setdefault((step, first), keys) == keys, f"{file}: step {step}"
    return done, again


def weights_of(config: ExperimentConfig) -> dict[str, torch.Tensor]:
    """Return the weights at a run's end."""
    newest = Checkpoints(config.run_dir, 1).newest()
    assert newest is not None
    return read_weights(newest)


def differs(expected: dict[str, torch.Tensor], config: ExperimentConfig) -> bool:
    """Return whether a run ended with other weights, in any bit."""
    found = weights_of(config)
    return found.keys() != expected.keys() or any(
        not torch.equal(found[name], weight) for name, weight in expected.items()
    )


if __name__ == "__main__":
    bounds = {"kills": (KILLS, inf), "other weights": NEVER, "other ledgers": NEVER}
    record(Path(sys.argv[1]), "kills", run(), bounds)
