"""Embeddings of brains in batches: from S3 to S3, killed and gone on with, and on Ray.

Oracle: the Predictor by hand on the same voxels.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jobs import embed_brains
from jobs.worker import worker
from mindeye_dist.data.dataset import Dataset
from mindeye_dist.data.manifest import Shard, read_manifest
from mindeye_dist.data.members import read_members
from mindeye_dist.data.shards import decode_npy, read_index
from mindeye_dist.decoding.predictor import Predictor
from mindeye_dist.runs.checkpoint_copies import fetch_checkpoint
from mindeye_dist.runs.checkpoints import Checkpoints
from mindeye_dist.storage.store import Store
from mindeye_dist.strict import override
from tests.conftest import ray_environment

ROOT = Path(__file__).parents[2]


@pytest.fixture
def trained(tiny_config):
    config = override(tiny_config, {"training.epochs": 1})
    worker(config)
    return config, Checkpoints(config.run_dir, 1).best()


def by_hand(config, path):
    """Return keys and embeddings of the test split."""
    store = Store(config.data.url)
    dataset = Dataset(store, read_manifest(store), config.data, "test")
    keys = [sample.key for sample in dataset.samples]
    return dict(zip(keys, Predictor(path).embed(dataset.averages()), strict=True))


def read_all(url):
    """Return what a set holds, by key."""
    store, found = Store(url), {}
    for entry in json.loads(store.read("embeddings.json"))["shards"]:
        samples = read_index(store, Shard(**entry))
        bodies = read_members(store, [(sample, "embedding.npy") for sample in samples])
        found |= {s.key: decode_npy(b, s.key) for s, b in zip(samples, bodies, strict=True)}
    return found


def equal(found, expected):
    assert found.keys() == expected.keys()
    for key, row in expected.items():
        np.testing.assert_allclose(found[key], row, atol=1e-6)


def test_embeddings_are_the_predictors_and_a_killed_run_goes_on(trained, tmp_path, capsys):
    config, path = trained
    flags = ["--run-dir", config.run_dir, "--out", str(tmp_path), "--without-ray"]
    flags += ["--pictures-per-shard", "4"]
    embed_brains.main(flags)
    assert "embedded 9 brains" in capsys.readouterr().err
    equal(read_all(str(tmp_path)), by_hand(config, path))
    shards = sorted((tmp_path / "test").glob("*.tar"))
    assert len(shards) == 3
    assert not any(config.data.subject in shard.name for shard in shards)
    shards[1].unlink()
    shards[2].write_bytes(shards[2].read_bytes()[:700])
    (tmp_path / "embeddings.json").unlink()
    embed_brains.main(flags)
    assert "embedded 5 brains" in capsys.readouterr().err
    equal(read_all(str(tmp_path)), by_hand(config, path))


def test_a_lowlevel_checkpoint_has_no_embeddings(tiny_config):
    config = override(tiny_config, {"training.epochs": 1, "pipeline": "lowlevel"})
    worker(config)
    with pytest.raises(SystemExit, match="is of the lowlevel pipeline"):
        embed_brains.main(["--run-dir", config.run_dir, "--without-ray"])


@pytest.mark.ray
@pytest.mark.s3
def test_from_s3_to_s3_on_ray(trained, s3, write_subject, tmp_path, fresh_clients, monkeypatch):
    config, path = trained
    write_subject("s3://lab/brains")
    store = Store("s3://lab/checkpoint")
    for file in path.iterdir():
        store.write(file.name, file.read_bytes())
    command = ["--checkpoint", "s3://lab/checkpoint", "--data-url", "s3://lab/brains"]
    command += ["--out", "s3://lab/embeddings", "--workers", "2"]
    result = subprocess.run(
        [sys.executable, "jobs/embed_brains.py", *command],
        cwd=ROOT,
        env=ray_environment(**s3, XDG_CACHE_HOME=str(tmp_path)),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    equal(read_all("s3://lab/embeddings"), by_hand(config, path))
    fetched = fetch_checkpoint("s3://lab/checkpoint", tmp_path / "mindeye-dist" / "checkpoints")
    assert {f.name: f.read_bytes() for f in fetched.iterdir()} == {
        f.name: f.read_bytes() for f in path.iterdir()
    }
    shutil.rmtree(fetched)
