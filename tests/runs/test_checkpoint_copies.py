"""Copies of checkpoints that lie elsewhere, and of a run's own there: whole or not there.

Oracle: the files of the checkpoint itself.
"""

import json
import shutil
from pathlib import Path
from threading import Event

import pytest
import torch

from jobs.worker import worker
from mindeye_dist.errors import CheckpointError, DataError
from mindeye_dist.runs.checkpoint_copies import CheckpointCopies, fetch_checkpoint
from mindeye_dist.runs.checkpoints import MANIFEST, Checkpoints, Progress, read_weights
from mindeye_dist.storage.store import Store
from mindeye_dist.strict import override


@pytest.fixture
def checkpoint(tiny_config, tmp_path):
    worker(override(tiny_config, {"training.epochs": 1}))
    best = Checkpoints(tiny_config.run_dir, 1).best()
    return shutil.copytree(best, tmp_path / "elsewhere")


def test_a_copy_is_equal_and_made_once(checkpoint, tmp_path):
    cache = tmp_path / "cache"
    found = fetch_checkpoint(f"file://{checkpoint}", cache)
    assert {f.name: f.read_bytes() for f in found.iterdir()} == {
        f.name: f.read_bytes() for f in checkpoint.iterdir()
    }
    (checkpoint / "model.safetensors").unlink()
    assert fetch_checkpoint(f"file://{checkpoint}", cache) == found
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
        fetch_checkpoint(f"file://{checkpoint}", tmp_path / "cache")
    assert not (tmp_path / "cache").exists() or list((tmp_path / "cache").iterdir()) == []


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.s3)])
def copied(request, tiny_config, tmp_path):
    """Return a finished run whose checkpoints were copied, and where to."""
    if request.param == "s3":
        request.getfixturevalue("s3")
        url = f"s3://lab/{tmp_path.name}/copies"
    else:
        url = str(tmp_path / "copies")
    changes = {"checkpoint.every_steps": 3, "checkpoint.keep": 3, "training.epochs": 4}
    config = override(tiny_config, {**changes, "checkpoint.copy_to": url})
    worker(config)
    return config, Store(url)


def contents(run_dir):
    folder = Checkpoints(run_dir, 1).folder
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def copies_of(store):
    names = CheckpointCopies(store.url).names()
    paths = [f"{name}/{file}" for name in names for file in store.names(name)]
    return {path: store.read(path) for path in paths}


def test_every_checkpoint_is_copied_and_kept_as_long(copied):
    config, store = copied
    assert copies_of(store) == contents(config.run_dir)
    assert len(CheckpointCopies(store.url).names()) >= 3


@pytest.mark.parametrize("fault", ["gone", "no manifest", "cut", "another step's"])
def test_a_run_whose_folder_is_lost_goes_on_from_the_newest_good_copy(copied, fault, caplog):
    """The undisturbed run's weights, to the bit, though the newest copy is not whole."""
    config, store = copied
    expected = read_weights(Checkpoints(config.run_dir, 1).newest())
    before, newest = CheckpointCopies(store.url).names()[-2:]
    if fault == "gone":
        store.delete_folder(newest)
    elif fault == "no manifest":
        store.delete(f"{newest}/{MANIFEST}")
    elif fault == "cut":
        model = f"{newest}/model.safetensors"
        store.write(model, store.read(model)[:-1])
    else:
        store.write(f"{newest}/model.safetensors", store.read(f"{before}/model.safetensors"))
    shutil.rmtree(config.run_dir)
    worker(config)
    assert f"fetched {store.locate(before)}" in caplog.text
    assert (f"passed over: {store.locate(newest)}" in caplog.text) == (
        fault in ("cut", "another step's")
    )
    again = Checkpoints(config.run_dir, 1).newest()
    assert again.name == newest
    for name, weight in read_weights(again).items():
        assert torch.equal(weight, expected[name]), name
    assert copies_of(store) == contents(config.run_dir)


def test_nothing_is_fetched_where_the_folder_has_as_new_a_one(copied, caplog):
    config, store = copied
    newest = Checkpoints(config.run_dir, 1).newest()
    CheckpointCopies(store.url).fetch(Checkpoints(config.run_dir, 1))
    assert "fetched" not in caplog.text
    (newest / "model.safetensors").write_bytes(b"damaged")
    CheckpointCopies(store.url).fetch(Checkpoints(config.run_dir, 1))
    assert f"fetched {store.locate(newest.name)}" in caplog.text
    assert Checkpoints(config.run_dir, 1).newest() == newest


def test_the_best_comes_with_the_newest(tmp_path, tiny_config):
    config = override(tiny_config, {"checkpoint.copy_to": str(tmp_path / "copies")})
    worker(config)
    best = Checkpoints(config.run_dir, 1).best()
    shutil.rmtree(config.run_dir)
    checkpoints = Checkpoints(config.run_dir, 1)
    CheckpointCopies(config.checkpoint.copy_to).fetch(checkpoints)
    assert checkpoints.best() == best


def test_a_copy_that_is_cut_short_has_no_manifest(tmp_path, tiny_config, monkeypatch, caplog):
    """Training itself is not disturbed by it."""
    upload = Store.upload

    def cut(store, source, path):
        if source.name == "state.json":
            raise DataError("the line is cut")
        upload(store, source, path)

    monkeypatch.setattr(Store, "upload", cut)
    copies = tmp_path / "copies"
    worker(override(tiny_config, {"training.epochs": 2, "checkpoint.copy_to": str(copies)}))
    assert "is not copied: the line is cut" in caplog.text
    assert list(copies.rglob("model.safetensors"))
    assert not list(copies.rglob(MANIFEST))
    assert Checkpoints(tiny_config.run_dir, 1).newest() is not None


def test_copies_that_cannot_be_reached_are_named_before_training(tmp_path, tiny_config):
    """Or else a run whose folder is lost would begin anew, and replace its own copies."""
    Path(tmp_path, "file").write_text("no folder")
    with pytest.raises(DataError, match="file/copies"):
        worker(override(tiny_config, {"checkpoint.copy_to": str(tmp_path / "file" / "copies")}))


def test_copies_that_cannot_be_had_for_a_while_are_not_taken_for_none(
    tmp_path, tiny_config, monkeypatch
):
    """A run that began anew would delete them."""
    copies = tmp_path / "copies"
    config = override(tiny_config, {"training.epochs": 2, "checkpoint.copy_to": str(copies)})
    worker(config)
    before = {str(path): path.read_bytes() for path in copies.rglob("*.*")}
    shutil.rmtree(config.run_dir)

    def gone(store, path, target):
        raise DataError(f"{path}: the line is cut")

    with monkeypatch.context() as cut:
        cut.setattr(Store, "copy", gone)
        with pytest.raises(DataError, match="the line is cut"):
            worker(config)
    for file in copies.rglob("model.safetensors"):
        file.write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="none is whole"):
        worker(config)
    assert {str(path) for path in copies.rglob("*.*")} == set(before)
    assert not list(Path(config.run_dir, "checkpoints").glob(".fetching-*"))


def test_what_is_copied_slowly_does_not_keep_training(tmp_path):
    """The second is left out, since it is kept no longer when its turn comes."""
    turn, begun, took = Event(), Event(), []

    def slowly(path, kept):
        begun.set()
        assert turn.wait(60)
        took.append((path.name, set(kept)))

    checkpoints = Checkpoints(str(tmp_path), 1, slowly)
    for step in (1, 2, 3):
        checkpoints.save(Progress(step=step, best_step=1), weights(), {"config.json": {}})
        assert begun.wait(60)
    turn.set()
    checkpoints.close()
    kept = {"step-00000001", "step-00000003"}
    assert took == [("step-00000001", took[0][1]), ("step-00000003", kept)]


def weights():
    keys = ("weight", "exp_avg", "exp_avg_sq")
    yield "weight", {key: torch.ones(3, 3) for key in keys}


def test_whether_copies_can_be_written_is_seen_before_training(tmp_path, monkeypatch):
    """A bucket that is not there lists as one without copies. What was tried leaves nothing."""
    copies = CheckpointCopies(str(tmp_path / "copies"))
    copies.check_writable()
    assert copies.names() == list((tmp_path / "copies").iterdir()) == []

    def refused(store, path, data):
        raise DataError(f"{store.url}/{path}: cannot be written: no such bucket")

    monkeypatch.setattr(Store, "write", refused)
    with pytest.raises(DataError, match="copies/can-be-written: cannot be written: no such bucket"):
        copies.check_writable()
