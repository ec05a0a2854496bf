"""A checkpoint is whole or not there, and what does not fit is said."""

import json
import resource
import shutil
import signal
import threading

import pytest
import torch
from safetensors.torch import load_file

import mindeye_dist.runs.checkpoints
from jobs.worker import worker
from mindeye_dist.decoding.predictor import Predictor
from mindeye_dist.errors import CheckpointError
from mindeye_dist.models.build import build_model
from mindeye_dist.runs.checkpoints import (
    Checkpoints,
    Progress,
    TrainingState,
    read_config,
    read_progress,
    read_shapes,
    verify,
)
from mindeye_dist.strict import override
from tests.forked import run_ranks
from tests.saving_ranks import SIZE, save_with_one_full_disk


@pytest.fixture
def run(tiny_config):
    """Return a finished short run."""
    config = override(tiny_config, {"training.epochs": 2, "checkpoint.every_steps": 3})
    worker(config)
    return config


FILES = {"config.json": {}}


def parameters(value, size=64):
    yield (
        "weight",
        {key: torch.full((size, size), value) for key in ("weight", "exp_avg", "exp_avg_sq")},
    )


def test_folder_explains_itself(run):
    """Oracle: safetensors' own reader and json."""
    newest = Checkpoints(run.run_dir, 1).newest()
    assert read_config(newest) == run
    weights = load_file(newest / "model.safetensors")
    assert all(weight.dtype == torch.float32 for weight in weights.values())
    assert (
        json.loads((newest / "state.json").read_text())["step"] == read_progress(newest).step == 7
    )
    assert not [
        path for path in newest.rglob("*") if path.suffix in (".pt", ".pth", ".pkl", ".bin")
    ]
    assert (newest / "model.safetensors").stat().st_mode & 0o044, "others may read it"


@pytest.mark.parametrize(
    "damage", ["cut", "flip", "remove", "torn manifest", "empty manifest", "stranger"]
)
def test_damaged_checkpoint_is_passed_over(run, damage, caplog):
    checkpoints = Checkpoints(run.run_dir, 2)
    newest = checkpoints.newest()
    file = newest / "model.safetensors"
    data = file.read_bytes()
    if damage == "cut":
        file.write_bytes(data[:-1])
    elif damage == "flip":
        file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif damage == "remove":
        file.unlink()
    elif damage == "stranger":
        shutil.copy(file, newest / "optimizer-00001-of-00002.safetensors")
    else:
        (newest / "manifest.json").write_text("{" if damage == "torn manifest" else "{}")
    with pytest.raises(CheckpointError, match=newest.name):
        verify(newest)
    with pytest.raises(CheckpointError, match=newest.name):
        Predictor(newest)
    earlier = checkpoints.newest()
    assert earlier is not None
    assert earlier.name < newest.name
    assert newest.name in caplog.text
    Predictor(earlier)


def test_full_disk_while_saving_keeps_what_was_there(tmp_path):
    """The operating system itself refuses the bytes: a file size limit is the full disk."""
    checkpoints = Checkpoints(str(tmp_path), 3)
    checkpoints.save(Progress(step=1), parameters(1.0), FILES)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    try:
        with pytest.raises(CheckpointError, match=r"\.writing-00000002: cannot be written: rank 0"):
            checkpoints.save(Progress(step=2), parameters(2.0), FILES)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    newest = checkpoints.newest()
    assert newest is not None
    assert newest.name == "step-00000001"
    state = TrainingState(newest, {"weight": (64, 64)})("weight")
    assert torch.equal(state["weight"], torch.full((64, 64), 1.0))
    checkpoints.save(Progress(step=2), parameters(2.0), FILES)
    assert checkpoints.newest().name == "step-00000002"


@pytest.fixture
def disk(monkeypatch):
    """Return an event without which nothing gets written."""
    turns = threading.Event()
    write = mindeye_dist.runs.checkpoints.write_rank_shard

    def slow(folder, share):
        assert turns.wait(60)
        write(folder, share)

    monkeypatch.setattr(mindeye_dist.runs.checkpoints, "write_rank_shard", slow)
    return turns


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path, disk):
    """Oracle: the weights at the moment of the save, whatever training has done to them since."""
    checkpoints = Checkpoints(str(tmp_path), 3)
    live = dict(parameters(1.0))
    checkpoints.save_in_background(Progress(step=1), iter(live.items()), FILES)
    for tensor in live["weight"].values():
        tensor.add_(1.0)
    assert (checkpoints.newest(), checkpoints.last_written_step) == (None, -1)
    disk.set()
    checkpoints.save_in_background(Progress(step=2), iter(live.items()), FILES)
    assert checkpoints.last_written_step >= 1, "the one before is there when the next one starts"
    checkpoints.wait_for_save()
    for step, value in ((1, 1.0), (2, 2.0)):
        path = checkpoints.folder / f"step-{step:08d}"
        verify(path)
        for tensor in TrainingState(path, {"weight": (64, 64)})("weight").values():
            assert torch.equal(tensor, torch.full((64, 64), value))


@pytest.mark.parametrize("then", ["save_in_background", "save"])
def test_a_save_that_fails_in_the_background_is_said_and_not_in_the_way(tmp_path, then, caplog):
    checkpoints = Checkpoints(str(tmp_path), 3)
    good = checkpoints.save(Progress(step=1), parameters(1.0), FILES)
    checkpoints.save_in_background(Progress(step=2), parameters(float("inf")), FILES)
    assert not checkpoints.wait_for_save()
    assert "weights are not finite: weight" in caplog.text
    assert (checkpoints.newest(), checkpoints.last_written_step) == (good, 1)
    checkpoints.save_in_background(Progress(step=2), parameters(float("inf")), FILES)
    getattr(checkpoints, then)(Progress(step=3), parameters(3.0), FILES)
    assert caplog.text.count("weights are not finite: weight") == 2
    assert checkpoints.wait_for_save()
    assert [path.name for path in sorted(checkpoints.folder.iterdir())] == [
        "step-00000001",
        "step-00000003",
    ]


def test_what_fails_beside_a_greater_error_is_in_the_log(tmp_path, caplog):
    checkpoints = Checkpoints(str(tmp_path), 3)
    checkpoints.save_in_background(Progress(step=1), parameters(float("nan")), FILES)
    checkpoints.close()
    assert "not saved: " in caplog.text
    checkpoints.close()


@pytest.mark.processes
def test_all_ranks_hear_of_one_full_disk(tmp_path):
    """The operating system of the second rank refuses the bytes; the step before and after it."""
    run_ranks(save_with_one_full_disk, str(tmp_path), count=2, folder=tmp_path)
    said = [(tmp_path / f"said-{rank}").read_text() for rank in range(2)]
    assert said[0] == said[1]
    assert ".writing-00000002: cannot be written: rank 1: " in said[0]
    names = [path.name for path in sorted((tmp_path / "checkpoints").iterdir())]
    assert names == ["step-00000001", "step-00000003"]
    state = TrainingState(
        tmp_path / "checkpoints" / "step-00000003", dict.fromkeys(("first", "second"), (SIZE, SIZE))
    )
    for name in ("first", "second"):
        for tensor in state(name).values():
            assert torch.equal(tensor, torch.full((SIZE, SIZE), 3.0))


def test_save_killed_half_way_is_no_checkpoint(tmp_path):
    checkpoints = Checkpoints(str(tmp_path), 3)
    path = checkpoints.save(Progress(step=1), parameters(1.0), FILES)
    shutil.copytree(path, path.parent / ".writing-00000002")
    (path.parent / ".writing-00000002" / "manifest.json").unlink()
    assert checkpoints.newest() == path


def test_best_and_newest_stay(tmp_path):
    checkpoints = Checkpoints(str(tmp_path), 2)
    for step in range(1, 7):
        checkpoints.save(
            Progress(step=step, best_step=2, best_score=0.5), parameters(float(step)), FILES
        )
    assert [p.name for p in sorted(checkpoints.folder.iterdir())] == [
        "step-00000002",
        "step-00000005",
        "step-00000006",
    ]
    assert checkpoints.best().name == "step-00000002"


def test_checkpoint_of_another_shape_is_refused_with_a_list(run):
    other = override(run, {"model.backbone.hidden": 40, "model.backbone.num_blocks": 1})
    with pytest.raises(CheckpointError, match="hidden was 32, is 40; .*num_blocks was 2, is 1"):
        worker(other)
    shapes = build_model(other, read_shapes(Checkpoints(run.run_dir, 1).newest())).state_dict()
    with pytest.raises(CheckpointError) as error:
        TrainingState(
            Checkpoints(run.run_dir, 1).newest(),
            {name: tuple(weight.shape) for name, weight in shapes.items()},
        )
    assert "unexpected backbone.blocks.1.0.weight" in str(error.value)
    assert "backbone.input.0.weight is (32, 24), the model has (40, 24)" in str(error.value)


def test_a_save_forgets_the_course_that_was_left(tmp_path):
    """A damaged later checkpoint must not push out the good ones, or the one just written."""
    checkpoints = Checkpoints(str(tmp_path), 1)
    checkpoints.save(Progress(step=100), parameters(1.0), FILES)
    later = checkpoints.save(Progress(step=150), parameters(2.0), FILES)
    (later / "model.safetensors").write_bytes(b"")
    written = checkpoints.save(Progress(step=110), parameters(3.0), FILES)
    assert checkpoints.newest() == written
    assert [path.name for path in checkpoints.folder.iterdir()] == ["step-00000110"]


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    checkpoints = Checkpoints(str(tmp_path), 3)
    good = checkpoints.save(Progress(step=1), parameters(1.0), FILES)
    with pytest.raises(CheckpointError, match="weights are not finite: weight"):
        checkpoints.save(Progress(step=2), parameters(float("nan")), FILES)
    assert checkpoints.newest() == good


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training.seed": 1}, "training.seed was 42, is 1"),
        ({"training.global_batch_size": 5}, "training.global_batch_size was 6, is 5"),
        ({"optimizer.max_lr": 0.5}, "optimizer.max_lr was 0.001, is 0.5"),
    ],
)
def test_resume_of_another_run_is_refused(run, changes, message):
    with pytest.raises(CheckpointError, match=message):
        worker(override(run, changes))


def test_resume_on_data_of_another_encoder_is_refused(run, tmp_path, write_subject):
    write_subject(tmp_path / "other")
    path = tmp_path / "other" / "manifest.json"
    path.write_text(path.read_text().replace("0" * 64, "1" * 64))
    with pytest.raises(CheckpointError, match="targets.clip_tokens.digest was '000"):
        worker(override(run, {"data.url": str(tmp_path / "other")}))
