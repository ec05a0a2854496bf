"""Files of earlier versions are read. Oracle: tests/fixtures/format-0, written by commit 056f2e4.

Its checkpoints are of step 6 of 12. outputs.npz holds the outputs of that commit for a few voxels,
in the middle and at the end of the run that was not interrupted.
"""

import json
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from jobs.tracking.record import read_tracking
from jobs.worker import worker
from mindeye_dist.data.manifest import read_manifest
from mindeye_dist.decoding.predictor import Predictor
from mindeye_dist.errors import CheckpointError, InputError
from mindeye_dist.runs.checkpoints import CONFIG, MANIFEST, Checkpoints, file_digest, read_config
from mindeye_dist.runs.config_changes import CHANGES
from mindeye_dist.storage.store import Store
from mindeye_dist.strict import Change, from_stored, to_stored

FIXTURES = Path(__file__).parent / "fixtures" / "format-0"


@pytest.fixture
def outputs():
    """Return the outputs of the earlier commit, by name."""
    with np.load(FIXTURES / "outputs.npz") as arrays:
        return dict(arrays)


def predictions(path, pipeline, voxels):
    predictor = Predictor(path)
    if pipeline == "lowlevel":
        return {"latents": predictor.latents(voxels)}
    return {"embed": predictor.embed(voxels), "tokens": predictor.tokens(voxels, [1, 2, 3])}


@pytest.mark.parametrize("pipeline", ["highlevel", "lowlevel"])
def test_a_checkpoint_predicts_as_it_did(pipeline, outputs):
    for name, array in predictions(FIXTURES / pipeline, pipeline, outputs["voxels"]).items():
        np.testing.assert_allclose(array, outputs[f"{name}_middle"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pipeline", ["highlevel", "lowlevel"])
def test_training_resumes_as_if_it_had_not_stopped(pipeline, outputs, tmp_path):
    shutil.copytree(FIXTURES / pipeline, tmp_path / "run/checkpoints/step-00000006")
    config = read_config(FIXTURES / pipeline)
    data = replace(config.data, url=str(FIXTURES / "shards"))
    worker(replace(config, run_dir=str(tmp_path / "run"), data=data))
    newest = Checkpoints(str(tmp_path / "run"), 1).newest()
    assert newest.name == "step-00000012"
    for name, array in predictions(newest, pipeline, outputs["voxels"]).items():
        np.testing.assert_allclose(array, outputs[f"{name}_end"], rtol=1e-3, atol=1e-4)
    assert json.loads((newest / CONFIG).read_text())["format"] == CHANGES[-1].format


def test_shards_and_manifest_are_read():
    subject = read_manifest(Store(str(FIXTURES / "shards"))).subject("subj01")
    counts = {name: sum(s.num_samples for s in part) for name, part in subject.splits.items()}
    assert counts == {"train": 8, "val": 4, "test": 4}


def test_the_record_of_a_run_in_mlflow_is_read():
    tracking = read_tracking(str(FIXTURES / "tracking"))
    assert (tracking.status, tracking.config.pipeline) == ("FINISHED", "highlevel")


def with_setting(tmp_path, section, key, value):
    """Return a copy of the earlier checkpoint in which a setting that is gone has a value."""
    folder = shutil.copytree(FIXTURES / "highlevel", tmp_path / "run/checkpoints/step-00000006")
    config = json.loads((folder / CONFIG).read_text())
    assert key in config[section]
    config[section][key] = value
    (folder / CONFIG).write_text(json.dumps(config))
    digests = json.loads((folder / MANIFEST).read_text())
    digests[CONFIG] = file_digest(folder / CONFIG)
    (folder / MANIFEST).write_text(json.dumps(digests))
    return folder


def test_a_removed_setting_in_use_is_named(tmp_path, caplog):
    """It does not stop decoding, but training cannot go on without it."""
    folder = with_setting(tmp_path, "data", "sampling", "with_replacement")
    Predictor(folder)
    assert "trained with data.sampling = 'with_replacement'" in caplog.text
    config = read_config(folder)
    config = replace(config, run_dir=str(tmp_path / "run"))
    config = replace(config, data=replace(config.data, url=str(FIXTURES / "shards")))
    with pytest.raises(CheckpointError, match=r"cannot be resumed.*no longer has data\.sampling"):
        worker(config)


@dataclass(frozen=True)
class Section:
    """Settings of a later version: `width` was `size`, `seed` is new, `depth` is gone."""

    width: int
    seed: int = 3
    style: str = "new"


@dataclass(frozen=True)
class Settings:
    """A stored file of a later version, with a section that is new."""

    model: Section
    extra: Section = field(default_factory=lambda: Section(1))


LATER = (
    Change(format=1, renamed={"model.size": "model.width"}, removed={"model.depth": 2}),
    Change(format=2, added={"model.style": "old"}),
)


def test_settings_are_renamed_removed_and_added():
    read = from_stored(Settings, {"model": {"size": 5, "depth": 2}}, LATER)
    assert read == Settings(Section(5, 3, "old"), Section(1))
    assert from_stored(Settings, {"format": 1, "model": {"width": 5}}, LATER) == read
    assert from_stored(Settings, to_stored(read, LATER), LATER) == read
    assert to_stored(read, LATER)["format"] == 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model": {"size": 5, "depth": 4}}, r"no longer has model\.depth \(was 4\)"),
        ({"format": 3, "model": {"width": 5}}, "format: got 3, expected at most 2; a newer"),
        ({"format": "1", "model": {"width": 5}}, "format: got '1'"),
        ({"model": {"size": 5, "colour": 1}}, r"unknown config keys: model\.colour"),
        ({"format": 1, "model": {"size": 5}}, r"unknown config keys: model\.size"),
        ({"model": {}}, r"missing config keys: model\.width"),
    ],
)
def test_what_a_change_does_not_explain_is_an_error(values, message):
    with pytest.raises(InputError, match=message):
        from_stored(Settings, values, LATER)
