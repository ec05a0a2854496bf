"""SIGKILL of a worker, the raylet and the driver of runs on Ray; `--resume` ends them.

Oracle: the undisturbed run without Ray, equal to the last bit.
"""

import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from math import inf
from pathlib import Path

import psutil

from chaos.kills import differs, weights_of
from chaos.record import NEVER, record
from jobs.worker import worker
from mindeye_dist.runs.checkpoints import Checkpoints, read_progress
from mindeye_dist.runs.journal import read_journal
from mindeye_dist.strict import override
from tests.conftest import flags, ray_environment, tiny_run, write_tiny_subject

ROOT = Path(__file__).parents[1]
VICTIMS = {"worker": "TrainWorker", "raylet": "raylet/raylet ", "driver": "jobs/train.py"}
LONG = {
    "training.epochs": 30,
    "training.validate_every_epochs": 10,
    "checkpoint.every_steps": 10,
}


def run(victims: tuple[str, ...] = tuple(VICTIMS)) -> dict[str, object]:
    """Kill each kind of process once in a run of its own; return what came of it."""
    figures = {"kills": 0, "runs that did not end": 0, "other weights": 0}
    with tempfile.TemporaryDirectory() as folder:
        write_tiny_subject(f"{folder}/shards")
        whole = override(tiny_run(f"{folder}/shards", f"{folder}/whole"), LONG)
        worker(whole)
        expected, last = weights_of(whole), read_progress(newest(whole)).step
        for victim in victims:
            config = override(whole, {"run_dir": f"{folder}/{victim}"})
            figures["kills"] += kill(config, VICTIMS[victim])
            figures[f"{victim}: killed after a checkpoint of step"] = read_progress(
                newest(config)
            ).step
            resumed = start(config, "--resume")
            resumed.wait(timeout=300)
            if resumed.returncode or read_progress(newest(config)).step != last:
                figures["runs that did not end"] += 1
            else:
                figures["other weights"] += differs(expected, config)
    return figures


def newest(config):
    """Return a run's newest checkpoint."""
    return Checkpoints(config.run_dir, 1).newest()


def start(config, *more):
    """Start a run as a user does, on a Ray of its own."""
    return subprocess.Popen(
        [sys.executable, "jobs/train.py", *flags(config), *more],
        cwd=ROOT,
        env=ray_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def kill(config, name):
    """Start a run, kill the process of that name in mid-run; return whether there was one."""
    process = start(config)
    own = psutil.Process(process.pid)
    deadline = time.monotonic() + 300
    while not (rows := read_journal(config.run_dir)) or rows[-1]["step"] < 25:
        assert process.poll() is None, "it ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    everyone = [own, *own.children(recursive=True)]
    victims = [each for each in everyone if name in command_of(each)]
    for victim in victims[:1]:
        victim.kill()
    with suppress(subprocess.TimeoutExpired):  # where the raylet is gone, Ray may wait for long
        process.wait(timeout=90)
    for each in everyone:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    process.wait()
    return bool(victims)


def command_of(process):
    """Return the command of a process, of one that is gone nothing."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


if __name__ == "__main__":
    bounds = dict.fromkeys(("runs that did not end", "other weights"), NEVER)
    record(Path(sys.argv[1]), "ray_kills", run(), bounds | {"kills": (len(VICTIMS), inf)})
