"""Stop rules of a sweep. Oracles: curves and clocks made by hand."""

import json
from copy import deepcopy

import pytest

from jobs.search import EPOCH, SCORE
from jobs.stop import Budget, BudgetSpentError, Patience, note_stopped, spent
from jobs.sweep_table import SweepTable
from mindeye_dist.sweep import describe_trial, note_event, read_events, read_trial

CURVE = [0.1, 0.3, 0.2, 0.3, 0.4]


def write_trial(folder, scores):
    describe_trial(folder, {}, 9)
    rows = [
        {"step": i, "time": float(i), "epoch": i, "val/score": score}
        for i, score in enumerate(scores)
    ]
    (folder / "journal.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    note_event(folder, "started")


def test_a_trial_that_no_longer_improves_is_whole(tmp_path):
    folder = tmp_path / "a"
    write_trial(folder, CURVE)
    stop = Patience(tmp_path, 2)
    said = [stop("a", {SCORE: s, EPOCH: e}) for e, s in enumerate(CURVE[:4], 1)]
    assert said == [False, False, False, True]
    assert [event["event"] for event in read_events(folder)] == ["started", "settled"]
    assert read_trial(folder).state == "settled"
    never = Patience(tmp_path, 0)
    assert not any(never("a", {SCORE: 0.1, EPOCH: e}) for e in range(50))


def test_patience_counts_over_sessions(tmp_path):
    """The second session first hears of epoch 4; the best was epoch 2, of the first."""
    write_trial(tmp_path / "a", CURVE[:4])
    assert Patience(tmp_path, 2)("a", {SCORE: 0.3, EPOCH: 4})
    assert not Patience(tmp_path, 3)("a", {SCORE: 0.3, EPOCH: 4})


def about(hours=0.0, gpu_hours=0.0, sessions=()):
    return {"options": {"hours": hours, "gpu_hours": gpu_hours}, "sessions": list(sessions)}


def test_hours_count_over_sessions(tmp_path, monkeypatch):
    """One of an hour, killed in the second after half an hour."""
    monkeypatch.setattr("time.time", lambda: 10_000.0 + 1800)
    sessions = [{"begun": 0.0, "ended": 3600.0}, {"begun": 10_000.0, "ended": None}]
    assert spent(about(1.5, 0, sessions), tmp_path, 0) == "--hours 1.5"
    assert spent(about(1.6, 0, sessions), tmp_path, 0) == ""
    assert spent(about(0, 0, sessions), tmp_path, 0) == ""


def test_gpu_hours_are_those_of_training(tmp_path):
    """Two trials of half an hour on two GPUs are two GPU hours; what they waited before is none."""
    for name in ("a", "b"):
        write_trial(tmp_path / name, [0.1])
        rows = [
            {"step": 0, "time": 9000.0, "train/wall_s": 10.0, "first_step": 0},
            {"step": 9, "time": 8990.0 + 1800, "epoch": 0, "val/score": 0.1},
        ]
        journal = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / name / "journal.jsonl").write_text(journal)
    assert spent(about(0, 2.0), tmp_path, 2.0) == "--gpu-hours 2"
    assert spent(about(0, 2.1), tmp_path, 2.0) == ""


def test_a_sweep_is_broken_off_by_what_its_folder_says(tmp_path, monkeypatch):
    """Read anew at each look, every ten seconds: --resume may have given it more."""
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    (tmp_path / "trials").mkdir()
    table = SweepTable(tmp_path / "trials", 1, 9)
    budget = Budget(tmp_path, 0, table)
    budget.setup()
    kept = deepcopy(budget)  # as Tune keeps it
    for hours, each in ((2.0, budget), (0.5, kept)):
        said = about(hours, 0, [{"begun": 0.0, "ended": 3600.0}])
        (tmp_path / "sweep.json").write_text(json.dumps(said))
        now[0] = 50.0  # of another machine
        each.setup()
        each.on_step_end(1, [])
        now[0] = 61.0
        if hours < 1:
            with pytest.raises(BudgetSpentError, match="--hours 0.5 are spent; --resume with more"):
                each.on_step_end(2, [])
        else:
            each.on_step_end(2, [])


def test_what_still_ran_was_stopped(tmp_path):
    for name, event in (("a", "ended"), ("b", "started")):
        write_trial(tmp_path / name, [0.1])
        note_event(tmp_path / name, event)
    note_stopped(tmp_path)
    assert [read_trial(tmp_path / name).state for name in "ab"] == ["interrupted", "stopped"]
