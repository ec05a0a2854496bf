"""Copies of checkpoints that lie elsewhere: whole or not there.

Oracle: the files of the checkpoint itself.
"""

import json
import shutil

import pytest

from jobs.worker import worker
from mindeye_dist.checkpoint import MANIFEST, CheckpointError, Checkpoints
from mindeye_dist.checkpoint_copy import copy_checkpoint
from mindeye_dist.strict import override


@pytest.fixture
def checkpoint(tiny_config, tmp_path):
    worker(override(tiny_config, {"training.epochs": 1}))
    best = Checkpoints(tiny_config.run_dir, 1).best()
    return shutil.copytree(best, tmp_path / "elsewhere")


def test_a_copy_is_equal_and_made_once(checkpoint, tmp_path):
    cache = tmp_path / "cache"
    found = copy_checkpoint(f"file://{checkpoint}", cache)
    assert {f.name: f.read_bytes() for f in found.iterdir()} == {
        f.name: f.read_bytes() for f in checkpoint.iterdir()
    }
    (checkpoint / "model.safetensors").unlink()
    assert copy_checkpoint(f"file://{checkpoint}", cache) == found
    assert [path.name for path in cache.iterdir()] == [found.name]


@pytest.mark.parametrize("fault", ["cut", "missing", "outside", "no manifest", "no JSON"])
def test_what_is_not_whole_is_refused_and_leaves_nothing(checkpoint, tmp_path, fault):
    manifest = checkpoint / MANIFEST
    if fault == "cut":
        model = checkpoint / "model.safetensors"
        model.write_bytes(model.read_bytes()[:-1])
    elif fault == "missing":
        (checkpoint / "state.json").unlink()
    elif fault == "outside":
        (tmp_path / "secret").write_text("secret")
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "../secret": "0"}))
    elif fault == "no manifest":
        manifest.unlink()
    else:
        manifest.write_text("{")
    with pytest.raises(CheckpointError):
        copy_checkpoint(f"file://{checkpoint}", tmp_path / "cache")
    assert not (tmp_path / "cache").exists() or list((tmp_path / "cache").iterdir()) == []
