"""What the trainer refuses, and what a run leaves behind."""

import json
from pathlib import Path

import pytest

from jobs.worker import worker
from mindeye_dist.errors import NonFiniteError
from mindeye_dist.runs.checkpoints import Checkpoints, read_progress
from mindeye_dist.runs.journal import Journal, read_journal, read_journal_from, read_summary
from mindeye_dist.strict import override


def test_non_finite_loss_names_step_and_samples(tiny_config):
    config = override(tiny_config, {"optimizer.max_lr": 1e30, "optimizer.start_factor": 1.0})
    with pytest.raises(NonFiniteError, match=r"step \d+: the loss is .*sample0000000\d\d"):
        worker(config)
    assert not list((Path(config.run_dir) / "checkpoints").glob("step-*"))


@pytest.mark.parametrize("parts", [4096, 2])
@pytest.mark.parametrize(
    ("pipeline", "loss"), [("highlevel", "train/prior"), ("lowlevel", "train/latents")]
)
def test_training_learns(tiny_config, parts, pipeline, loss):
    """The prior's or the latents' loss, which nothing switches on the way, falls by a tenth."""
    changes = {
        "training.epochs": 24,
        "pipeline": pipeline,
        "training.max_micro_batch_size": parts,
        "optimizer.max_lr": 5e-3,
    }
    config = override(tiny_config, changes)
    worker(config)
    values = [row[loss] for row in read_journal(config.run_dir) if loss in row]
    assert sum(values[-10:]) < 0.9 * sum(values[:10])


def test_a_final_run_keeps_its_last_checkpoint_as_the_best(tiny_config):
    """Trained on val, val cannot choose."""
    config = override(
        tiny_config,
        {"data.train_on": "train+val", "training.epochs": 6, "training.validate_every_epochs": 1},
    )
    worker(config)
    checkpoints = Checkpoints(config.run_dir, 1)
    assert checkpoints.best() == checkpoints.newest()
    assert read_summary(config.run_dir)["steps"] == 6 * (23 + 7) // 6


@pytest.mark.parametrize("pipeline", ["highlevel", "lowlevel"])
def test_a_run_explains_itself(tiny_config, pipeline):
    config = override(tiny_config, {"training.epochs": 2, "pipeline": pipeline})
    rows = []
    worker(config, [rows.append])
    assert rows == read_journal(config.run_dir)
    losses = {"contrastive", "total", "prior" if pipeline == "highlevel" else "latents"}
    scores = {"top1_brain_to_image", "top1_image_to_brain"}
    if pipeline == "lowlevel":
        scores = {"latent_correlation"}
    assert {f"val/{name}" for name in losses | scores} <= set().union(*rows)
    summary = read_summary(config.run_dir)
    assert summary["steps"] == 2 * 23 // 6
    assert summary["world_size"] == 1
    assert 0 <= summary["data_wait_fraction"] <= 1
    assert summary["samples_per_s"] > 0
    assert 0 < summary["checkpoint_pause_fraction"] < 1


def test_journal_forgets_what_the_checkpoint_does_not_know(tmp_path):
    journal = Journal(str(tmp_path), 0)
    for step in range(5):
        journal({"step": step})
    with (tmp_path / "journal.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')
    assert [row["step"] for row in read_journal(str(tmp_path))] == [0, 1, 2, 3, 4]
    Journal(str(tmp_path), 2)({"step": 3, "again": True})
    assert read_journal(str(tmp_path))[3:] == [{"step": 3, "again": True}]
    assert json.loads((tmp_path / "journal.jsonl").read_text().splitlines()[-1])["again"]


def test_journal_is_read_on_from_where_it_was(tmp_path):
    assert read_journal_from(str(tmp_path), 0, 9) == ([], 0)
    journal = Journal(str(tmp_path), 0)
    for step in range(5):
        journal({"step": step})
    read, offset = read_journal_from(str(tmp_path), 0, 3)
    assert [row["step"] for row in read] == [0, 1, 2]
    read, offset = read_journal_from(str(tmp_path), offset, 3)
    assert [row["step"] for row in read] == [3, 4]
    with (tmp_path / "journal.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')
        file.flush()
        assert read_journal_from(str(tmp_path), offset, 3) == ([], offset)
        file.write('ss": 1}\nnot whole\n{"step": 6}')
    read, offset = read_journal_from(str(tmp_path), offset, 9)
    assert read == [{"step": 5, "loss": 1}, {"step": 6}]
    assert offset == (tmp_path / "journal.jsonl").stat().st_size


def test_a_validation_is_told_when_its_checkpoint_is_there(tiny_config):
    """Oracle: the journal's scores, and the checkpoints' own word at each moment."""
    told = []

    def validated(row):
        newest = read_progress(Checkpoints(tiny_config.run_dir, 1).newest())
        told.append((row["epoch"], row["score"], newest.best_score))

    worker(tiny_config, validated=[validated])
    journal = [r for r in read_journal(tiny_config.run_dir) if "val/score" in r]
    assert [(epoch, score) for epoch, score, _ in told] == [
        (row["epoch"] + 1, row["val/score"]) for row in journal
    ]
    best = float("-inf")
    for _, score, saved in told:
        best = max(best, score)
        assert saved == best
