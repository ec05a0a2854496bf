"""Nodes that come and go: a run goes on with fewer workers, and with more when there is room again.

Oracle: the same run in one process, without Ray, up to the same step: losses to 1e-6.
"""

import signal
import subprocess
import sys
import time
from threading import Event

import psutil
import pytest

from jobs.worker import worker
from mindeye_dist.errors import PreemptedError
from mindeye_dist.runs.checkpoints import Checkpoints
from mindeye_dist.strict import override
from tests.conftest import flags
from tests.jobs.test_drain import await_step, node, nodes_with_cpus, read_run
from tests.ray_cluster import ROOT, head
from tests.training.test_elastic import TOLERANCE
from tests.training.test_workers import NO_DROPOUT

pytestmark = [pytest.mark.ray, pytest.mark.chaos]  # minutes: `make chaos` runs it
CHANGES = {
    **NO_DROPOUT,
    "optimizer.max_lr": 1e-8,  # or rounding would grow over thousands of steps
    "training.epochs": 20_000,
    "training.validate_every_epochs": 20_000,
    "checkpoint.every_steps": 20,
    "compute.num_workers": 2,
    "compute.min_workers": 1,
    "compute.max_restarts": -1,
}


def test_a_run_goes_on_with_fewer_and_with_more_workers(tiny_config, tmp_path):
    config, said = override(tiny_config, CHANGES), tmp_path / "said.log"
    with head(num_cpus=0) as environment:
        environment["RAY_ADDRESS"] = environment["RAY_HEAD_ADDRESS"]
        with node(environment), said.open("w") as log:
            nodes_with_cpus(environment, 1)
            command = [sys.executable, "jobs/train.py", *flags(config)]
            try:
                with node(environment) as lost:
                    nodes_with_cpus(environment, 2)
                    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=log)
                    await_step(config, process, 30)
                    await_workers(config, process, said, 2)
                    kill(lost)
                    await_workers(config, process, said, 1)
                with node(environment):
                    nodes_with_cpus(environment, 2)
                    await_workers(config, process, said, 2)
                    process.send_signal(signal.SIGTERM)
                    process.wait(120)
            finally:
                process.kill()
                process.wait()
    losses, step, _ = read_run(config.run_dir)
    assert f"error: preempted at step {step} " in said.read_text()
    assert [number for number, _ in losses] == list(range(1, step + 1))
    one = {"run_dir": str(tmp_path / "alone"), "compute.num_workers": 1, "compute.min_workers": 0}
    alone, notice = override(config, one), Event()
    with pytest.raises(PreemptedError):
        worker(alone, [lambda row: notice.set() if row["step"] == step else None], notice=notice)
    for (_, found), (_, expected) in zip(losses, read_run(alone.run_dir)[0], strict=True):
        assert abs(found / expected - 1) < TOLERANCE


def await_workers(config, process, said, count, seconds=240):
    """Wait for a checkpoint that so many workers wrote."""
    deadline = time.monotonic() + seconds
    checkpoints = Checkpoints(config.run_dir, 1).folder
    while True:
        assert process.poll() is None, said.read_text()
        assert time.monotonic() < deadline, said.read_text()
        newest = max(checkpoints.glob("step-*"), default=checkpoints)
        if list(newest.glob(f"optimizer-*-of-{count:05d}.safetensors")):
            return
        time.sleep(0.2)


def kill(process):
    """Kill a node with all that runs on it."""
    for each in [*psutil.Process(process.pid).children(recursive=True), process]:
        each.kill()
