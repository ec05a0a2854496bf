"""Room on a cluster. Oracle: counted by hand, each worker whole on one node."""

import pytest
import ray
from ray.exceptions import ActorDiedError
from ray.train import TrainingFailedError

from jobs.on_ray.launch import connect, count_fitting, room_for_workers, root_cause
from mindeye_dist.config import ComputeConfig, ExperimentConfig
from mindeye_dist.errors import DataError


@pytest.mark.parametrize(
    ("there", "count", "kind", "times"),
    [
        (6.0, 4.0, "CPU", 1),
        (3.0, 0.5, "CPU", 6),
        (0.3, 0.1, "CPU", 3),
        (4.0, 0.4, "GPU", 8),  # two parts of each GPU, none of two
        (4.0, 2.0, "GPU", 2),
        (0.0, 1.0, "GPU", 0),
    ],
)
def test_parts_of_a_gpu_are_of_one_gpu(there, count, kind, times):
    assert count_fitting(there, count, kind) == times


@pytest.fixture
def three_nodes(monkeypatch):
    """Three nodes of six CPUs, one of which is dead, and no Ray that would be started."""
    node = {"Resources": {"CPU": 6.0, "GPU": 2.0}}
    nodes = [{**node, "Alive": True}, {**node, "Alive": False}, {**node, "Alive": True}]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    monkeypatch.setattr(ray, "init", lambda **_: None)


def compute(**changes):
    return ComputeConfig(**{"num_workers": 1, "cpus_per_worker": 4.0, **changes})


@pytest.mark.usefixtures("three_nodes")
def test_room_is_counted_node_by_node():
    assert room_for_workers(compute()) == 2  # and not the three of twelve CPUs
    assert room_for_workers(compute(cpus_per_worker=1.0, device="cuda")) == 4
    assert room_for_workers(compute(cpus_per_worker=7.0)) == 0
    assert room_for_workers(compute(cpus_per_worker=0.0, device="cuda")) == 4  # GPUs alone count


@pytest.mark.usefixtures("three_nodes")
def test_a_run_that_never_fits_is_refused(monkeypatch, caplog):
    """Seven CPUs are there, but on no node."""
    message = "1 workers ask for 7 CPU each, there is room for 0 .by node: 6 CPU; 6 CPU."
    config = ExperimentConfig(compute=compute(cpus_per_worker=7.0))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ValueError, match=message):
        connect(config)
    monkeypatch.setenv("RAY_ADDRESS", "somewhere")
    with pytest.raises(ValueError, match=message):
        connect(config, wait=False)
    connect(config)
    assert "waiting for the cluster to grow" in caplog.text


@pytest.mark.parametrize(
    ("failures", "cause"),
    [
        ({0: RuntimeError("reset by peer"), 1: ActorDiedError()}, r"workers \[1\] died; --resume"),
        ({0: ConnectionError("peer"), 1: DataError("a shard")}, "^a shard$"),
        ({0: RuntimeError("out of memory"), 1: RuntimeError("reset by peer")}, "^all of it$"),
        ({}, "^all of it$"),
    ],
)
def test_the_cause_is_the_first_that_one_can_act_on(failures, cause):
    """What is none of ours and no lost worker keeps the whole of Ray's error, with its trace."""
    error = TrainingFailedError("all of it")
    error.worker_failures = failures
    with pytest.raises(Exception, match=cause):
        raise root_cause(error)
