"""A node that Ray drains: a checkpoint at once, and the workers go on on another node.

Oracle: the same run in one process, without Ray, up to the same step.
"""

import json
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from threading import Event

import pytest
import torch

from jobs.worker import worker
from mindeye_dist.errors import PreemptedError
from mindeye_dist.runs.checkpoints import Checkpoints, read_progress, read_weights
from mindeye_dist.runs.journal import read_journal
from mindeye_dist.strict import override
from tests.conftest import flags
from tests.ray_cluster import ANY_PORTS, BIN, ROOT, head

pytestmark = [pytest.mark.ray, pytest.mark.chaos]  # minutes: `make chaos` runs it
NODES = "import json, ray; ray.init(log_to_driver=False); print(json.dumps(ray.nodes()))"


@contextmanager
def node(environment):
    """Add a node with one CPU to the cluster; yield its process."""
    command = [str(BIN / "ray"), "start", "--block", "--num-cpus=1"]
    process = subprocess.Popen(
        [*command, f"--address={environment['RAY_ADDRESS']}", *ANY_PORTS],
        env={k: v for k, v in environment.items() if k != "RAY_ADDRESS"},
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def nodes_with_cpus(environment, count):
    """Return the ids of nodes with a CPU, once there are so many."""
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        result = subprocess.run(
            [sys.executable, "-c", NODES], env=environment, capture_output=True, check=True
        )
        nodes = json.loads(result.stdout.splitlines()[-1])
        ids = [n["NodeID"] for n in nodes if n["Alive"] and n["Resources"].get("CPU")]
        if len(ids) == count:
            return ids
    raise AssertionError("the nodes did not join")


def await_step(config, process, step):
    deadline = time.monotonic() + 200
    while not (rows := read_journal(config.run_dir)) or rows[-1]["step"] < step:
        assert process.poll() is None, "the run ended"
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return read_journal(config.run_dir)[-1]["step"]


def read_run(run_dir):
    rows = [row for row in read_journal(run_dir) if "train/total" in row]
    newest = Checkpoints(run_dir, 1).newest()
    losses = [(row["step"], row["train/total"]) for row in rows]
    return losses, read_progress(newest).step, read_weights(newest)


def test_workers_of_a_drained_node_go_on_elsewhere_and_end_on_sigterm(tiny_config, tmp_path):
    changes = {"training.epochs": 20_000, "training.validate_every_epochs": 20_000}
    config = override(tiny_config, {**changes, "checkpoint.every_steps": 100_000})
    said = tmp_path / "said.log"
    with head(num_cpus=0) as environment:
        environment["RAY_ADDRESS"] = environment["RAY_HEAD_ADDRESS"]
        with node(environment), said.open("w") as log:
            (first,) = nodes_with_cpus(environment, 1)
            command = [sys.executable, "jobs/train.py", *flags(config)]
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=log)
            try:
                await_step(config, process, 20)
                with node(environment):
                    nodes_with_cpus(environment, 2)
                    drain(environment, first)
                    while "starting the workers elsewhere" not in said.read_text():
                        assert process.poll() is None, said.read_text()
                        time.sleep(0.1)
                    drained_at = read_progress(Checkpoints(config.run_dir, 1).newest()).step
                    await_step(config, process, drained_at + 20)
                    process.send_signal(signal.SIGTERM)
                    process.wait(120)
            finally:
                process.kill()
                process.wait()
    losses, step, weights = read_run(config.run_dir)
    assert process.returncode == 1
    assert f"a node is drained, preempted at step {drained_at} " in said.read_text()
    assert f"error: preempted at step {step} " in said.read_text()
    assert [number for number, _ in losses] == list(range(1, step + 1))

    alone, notice = override(config, {"run_dir": str(tmp_path / "alone")}), Event()
    with pytest.raises(PreemptedError):
        worker(alone, [lambda row: notice.set() if row["step"] == step else None], notice=notice)
    expected = read_run(alone.run_dir)
    assert (losses, step) == expected[:2]
    for name, weight in weights.items():
        assert torch.equal(weight, expected[2][name]), name


def drain(environment, node_id):
    command = [str(BIN / "ray"), "drain-node", f"--address={environment['RAY_ADDRESS']}"]
    reason = ["--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=spot"]
    deadline = ["--deadline-remaining-seconds=120", f"--node-id={node_id}"]
    subprocess.run([*command, *reason, *deadline], env=environment, check=True, timeout=60)
