"""A run that was killed goes on as if nothing had happened.

Oracle: the undisturbed run, equal to the last bit for the torch backend on a CPU.
"""

import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

from jobs.worker import worker
from mindeye_dist.runs.checkpoints import Checkpoints, TrainingState, read_progress, read_weights
from mindeye_dist.runs.journal import read_journal
from mindeye_dist.strict import override
from tests.conftest import train_each, train_heeding_sigterm
from tests.forked import said_by, start, start_ranks


def kill_in_mid_run(config, folder, after_step):
    """Start the run in a process of its own and kill it once its journal has reached a step."""
    process = start(train_each, [config], said=folder / "killed.log")
    try:
        deadline = time.monotonic() + 120
        while len(read_journal(config.run_dir)) < after_step:
            assert process.is_alive(), "the run ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.002)
    finally:
        process.kill()
        process.join()


@pytest.mark.processes
def test_killed_run_ends_with_the_same_bits(tiny_config, tmp_path):
    changes = {
        "training.epochs": 40,
        "checkpoint.every_steps": 7,
        "training.validate_every_epochs": 20,
    }
    config = override(tiny_config, changes)
    worker(config)
    expected = read_weights(Checkpoints(config.run_dir, 1).newest())

    killed = override(config, {"run_dir": f"{config.run_dir}-killed"})
    kill_in_mid_run(killed, tmp_path, after_step=30)
    place = read_progress(Checkpoints(killed.run_dir, 1).newest())
    total = read_journal(config.run_dir)[-1]["step"]
    assert 0 < place.step < total  # 7 steps of 6 samples: in the middle of an epoch of 23
    worker(killed)

    weights = read_weights(Checkpoints(killed.run_dir, 1).newest())
    assert weights.keys() == expected.keys()
    for name, weight in weights.items():
        assert torch.equal(weight, expected[name]), name
    assert losses(killed.run_dir) == losses(config.run_dir)


@pytest.mark.processes
@pytest.mark.parametrize("count", [1, 2])
def test_a_run_ends_on_sigterm_with_the_step_it_has_reached(tiny_config, workers, tmp_path, count):
    """Whichever rank is told; checkpoints are else so far apart that there would be none."""
    changes = {
        "training.epochs": 40,
        "training.validate_every_epochs": 40,
        "checkpoint.every_steps": 10_000,
        "compute.num_workers": count,
    }
    config = override(tiny_config, changes)
    ended = override(config, {"run_dir": f"{config.run_dir}-ended"})
    ranks = start_ranks(train_heeding_sigterm, ended, count=count, folder=tmp_path)
    try:
        deadline = time.monotonic() + 120
        while len(read_journal(ended.run_dir)) < 30:
            assert all(rank.is_alive() for rank in ranks), "the run ended before its time"
            assert time.monotonic() < deadline
            time.sleep(0.002)
        os.kill(ranks[-1].pid, signal.SIGTERM)
        for rank in ranks:
            rank.join(120)
    finally:
        for rank in ranks:
            rank.kill()
    place = read_progress(Checkpoints(ended.run_dir, 1).newest())
    total = read_journal(ended.run_dir)[-1]["total_steps"]
    assert place.step == read_journal(ended.run_dir)[-1]["step"] < total
    for number, rank in enumerate(ranks):
        message = f"PreemptedError: preempted at step {place.step} of {total}; --resume goes on"
        assert message in said_by(number, count, tmp_path)
        assert rank.exitcode

    workers([config, ended], count, tmp_path)
    newest = [Checkpoints(run.run_dir, 1).newest() for run in (config, ended)]
    expected, resumed = (read_weights(path) for path in newest)
    assert newest[0].name == newest[1].name
    for name, weight in resumed.items():
        assert torch.equal(weight, expected[name]), name
    assert losses(ended.run_dir) == losses(config.run_dir)


def losses(run_dir):
    return [
        (row["step"], row["train/total"]) for row in read_journal(run_dir) if "train/total" in row
    ]


@pytest.mark.deepspeed
def test_deepspeed_resumes_at_any_stage(tiny_config, workers, tmp_path):
    """Every ZeRO stage, and the torch backend, goes on from a checkpoint of any other."""
    base = override(
        tiny_config,
        {
            "training.epochs": 4,
            "checkpoint.every_steps": 9,
            "checkpoint.keep": 100,
            "compute.num_workers": 2,
            "compute.backend": "deepspeed",
            "model.backbone.input_dropout": 0.0,
            "model.backbone.block_dropout": 0.0,
        },
    )

    def run(stage, name):
        return override(base, {"compute.zero_stage": stage, "run_dir": f"{base.run_dir}-{name}"})

    whole = {stage: run(stage, f"whole{stage}") for stage in (0, 1, 2, 3)}
    workers(list(whole.values()), 2, tmp_path)
    resumed = {
        (a, b): run(b, f"from{a}to{b}") for a, b in [(0, 0), (1, 1), (2, 2), (3, 3), (2, 3), (3, 1)]
    }
    alone = override(run(2, "alone"), {"compute.backend": "torch", "compute.num_workers": 1})
    for origin, config in [*((a, c) for (a, _), c in resumed.items()), (2, alone)]:
        source = Path(whole[origin].run_dir) / "checkpoints" / "step-00000009"
        shutil.copytree(source, Path(config.run_dir) / "checkpoints" / source.name)
    workers(list(resumed.values()), 2, tmp_path)
    worker(alone)
    for (origin, _), config in resumed.items():
        assert_same_state(config, whole[origin])
    assert_same_state(alone, whole[2], 5e-6)  # one process sums in another order than two


def assert_same_state(config, other, atol=1e-6):
    newest = [Checkpoints(c.run_dir, 1).newest() for c in (config, other)]
    assert newest[0].name == newest[1].name
    shapes = {name: tuple(w.shape) for name, w in read_weights(newest[0]).items()}
    ours, theirs = (TrainingState(path, shapes) for path in newest)
    for name in shapes:
        for key, tensor in ours(name).items():
            torch.testing.assert_close(
                tensor,
                theirs(name)[key],
                rtol=1e-5,
                atol=atol,
                msg=lambda text, name=name, key=key: f"{name} {key}: {text}",
            )
