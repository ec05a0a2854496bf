"""Training on a real Ray cluster, joined by the program or as a submitted job.

Oracle: the same run in one process, without Ray.
"""

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from jobs import evaluate
from jobs.command import absolute_path
from jobs.worker import worker
from mindeye_dist.runs.checkpoints import Checkpoints, read_progress, read_weights
from mindeye_dist.runs.journal import read_journal
from mindeye_dist.strict import override
from tests.conftest import flags
from tests.ray_cluster import BIN, ROOT, head, processes

NO_DROPOUT = {"model.backbone.input_dropout": 0.0, "model.backbone.block_dropout": 0.0}
TWO_WORKERS = {
    "compute.num_workers": 2,
    "compute.backend": "deepspeed",
    "compute.cpus_per_worker": 0.5,
}
pytestmark = pytest.mark.ray


def command(config):
    return ["jobs/train.py", *flags(config)]


@pytest.fixture(scope="module")
def cluster(s3):
    """Return the environment of clients of a fresh cluster, with token authentication on."""
    with head(**s3) as environment:
        yield environment


def start(config, cluster, said):
    """Start training on the cluster, what it says into a file."""
    with said.open("w") as log:
        return subprocess.Popen(
            [sys.executable, *command(config)],
            cwd=ROOT,
            env={**cluster, "RAY_ADDRESS": cluster["RAY_HEAD_ADDRESS"]},
            stderr=log,
        )


def curve(run_dir):
    return [row["train/total"] for row in read_journal(run_dir) if "train/total" in row]


def weights(run_dir):
    return read_weights(Checkpoints(run_dir, 1).newest())


@pytest.mark.s3
def test_killed_worker_then_resume(cluster, tiny_config, workers, tmp_path):
    """The undisturbed run's weights, to 1e-6, after a worker was killed in mid-epoch.

    It is resumed without Ray, as the undisturbed run is made; a sweep's test resumes on Ray.
    """
    longer = {"training.epochs": 15, "training.validate_every_epochs": 15}
    whole = override(tiny_config, {**TWO_WORKERS, **longer, "checkpoint.every_steps": 10})
    killed = override(whole, {"run_dir": str(tmp_path / "killed")})
    said = tmp_path / "said.log"
    process = start(killed, cluster, said)
    try:
        kill_worker(cluster, process, killed.run_dir, said)
        assert process.wait(timeout=240) != 0
    finally:
        process.kill()
        process.wait()
    assert "died; --resume goes on" in said.read_text()
    step = read_progress(Checkpoints(killed.run_dir, 1).newest()).step
    assert 0 < step < read_journal(killed.run_dir)[-1]["total_steps"]
    workers([killed, whole], 2, tmp_path)
    expected = weights(whole.run_dir)
    for name, weight in weights(killed.run_dir).items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-6, atol=1e-6)


def kill_worker(cluster, process, run_dir, said):
    """Kill a training worker, once the run has written a checkpoint."""
    deadline = time.monotonic() + 600
    while not list(Path(run_dir).glob("checkpoints/step-*")):
        assert process.poll() is None, said.read_text()
        assert time.monotonic() < deadline, (
            said.read_text(),
            read_journal(run_dir)[-1:],
            processes(cluster, "ray::"),
        )
        time.sleep(0.05)
    (victim, _) = processes(cluster, "TrainWorker")
    victim.send_signal(signal.SIGKILL)


@pytest.mark.s3
@pytest.mark.chaos
def test_bad_shard_is_named_through_ray(cluster, tiny_shards, tiny_config, tmp_path):
    broken = shutil.copytree(tiny_shards, tmp_path / "broken")
    shard = broken / "train" / "train_subj01_1.tar"
    shard.write_bytes(shard.read_bytes()[:3000])
    two = {**TWO_WORKERS, "compute.backend": "torch"}
    config = override(tiny_config, {**two, "data.url": str(broken)})
    said = tmp_path / "said.log"
    assert start(config, cluster, said).wait(timeout=240) != 0
    lines = [line for line in said.read_text().splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, said.read_text()
    assert "train_subj01_1.tar: sample sample0000000" in lines[0]


def submitted(arguments, cluster):
    """Submit a job; the dashboard answers a while before the agent that takes jobs is there."""
    deadline = time.monotonic() + 90
    while True:
        result = subprocess.run(
            arguments, env=cluster, capture_output=True, text=True, timeout=240, check=False
        )
        if "No available agent" not in result.stderr or time.monotonic() > deadline:
            return result
        time.sleep(2)


@pytest.mark.s3
def test_submitted_job_reads_s3_trains_tracks_and_evaluates(
    cluster, tiny_config, write_subject, tmp_path, capsys
):
    write_subject("s3://lab/submitted")
    oracle = override(tiny_config, NO_DROPOUT)
    worker(oracle)
    changes = {
        **TWO_WORKERS,
        "data.url": "s3://lab/submitted",
        "run_dir": str(tmp_path / "ray" / "run"),
        "tracking.mlflow": "sqlite",
    }
    config = override(oracle, changes)
    submit = [str(BIN / "ray"), "job", "submit", "--working-dir", str(ROOT), "--"]
    result = submitted([*submit, "python", *command(config)], cluster)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert "samples/s" in result.stdout + result.stderr
    np.testing.assert_allclose(curve(config.run_dir), curve(oracle.run_dir), rtol=1e-4)
    assert absolute_path(config.run_dir) == config.run_dir
    summary = json.loads((Path(config.run_dir) / "summary.json").read_text())
    assert (summary["world_size"], summary["zero_stage"]) == (2, 2)

    with sqlite3.connect(tmp_path / "ray" / "mlflow.db") as connection:
        tracked = connection.execute(
            "select value from metrics where key = 'train/total' order by step"
        ).fetchall()
        seed = connection.execute("select value from params where key = 'training.seed'").fetchone()
    connection.close()
    np.testing.assert_allclose([value for (value,) in tracked], curve(config.run_dir))
    assert seed == ("42",)

    evaluate.main(["--run-dir", config.run_dir])
    report = json.loads((Path(config.run_dir) / "report.json").read_text())
    assert report["retrieval"]["pool"] == 9
    assert report["train"]["world_size"] == 2
    assert (Path(config.run_dir) / "report.html").exists()
    assert "brain_to_image" in capsys.readouterr().out
