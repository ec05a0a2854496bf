"""Time limit of a sweep. Oracles: sessions and clocks made by hand."""

import json
from copy import deepcopy

import pytest

from jobs.stop import Budget, BudgetSpentError, mark_stopped, session_seconds
from jobs.sweep_table import SweepTable
from mindeye_dist.sweep import describe_trial, note_event, read_trial


def test_hours_count_over_sessions(monkeypatch):
    """A session of an hour, and a session that runs since half an hour."""
    monkeypatch.setattr("time.time", lambda: 10_000.0 + 1800)
    sessions = [{"begun": 0.0, "ended": 3600.0}, {"begun": 10_000.0, "ended": None}]
    assert session_seconds(sessions) == 3600 + 1800


def test_a_sweep_is_interrupted_when_its_stored_hours_are_spent(tmp_path, monkeypatch):
    """The hours are read from sweep.json at each check, every ten seconds; 0 is no limit."""
    clock = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    (tmp_path / "trials").mkdir()
    budget = Budget(tmp_path, SweepTable(tmp_path / "trials", 1, 9))
    budget.setup()
    restored = deepcopy(budget)  # as Tune does
    for hours, each in ((2.0, budget), (0.0, budget), (0.5, restored)):
        sessions = [{"begun": 0.0, "ended": 3600.0}]
        stored = {"options": {"hours": hours}, "sessions": sessions}
        (tmp_path / "sweep.json").write_text(json.dumps(stored))
        clock[0] = 50.0  # another machine's clock
        each.setup()
        each.on_step_end(1, [])
        clock[0] = 61.0
        if hours == 0.5:
            with pytest.raises(BudgetSpentError, match="--hours 0.5 are spent; --resume with more"):
                each.on_step_end(2, [])
        else:
            each.on_step_end(2, [])


def test_running_trials_are_marked_stopped(tmp_path):
    for name, event in (("a", "ended"), ("b", "started")):
        describe_trial(tmp_path / name, {}, 9)
        note_event(tmp_path / name, "started")
        note_event(tmp_path / name, event)
    mark_stopped(tmp_path)
    assert [read_trial(tmp_path / name).state for name in "ab"] == ["interrupted", "stopped"]
