"""Time limit of a sweep. Oracles: sessions and clocks made by hand."""

import json
from contextlib import nullcontext

import pytest

from jobs.sweeps.budget import Budget, BudgetSpentError, mark_stopped, session_seconds
from jobs.sweeps.records import describe_trial, note_event, read_trial
from jobs.sweeps.table import SweepTable


def test_hours_count_over_sessions(monkeypatch):
    """A session of an hour, and a session that runs since half an hour."""
    monkeypatch.setattr("time.time", lambda: 10_000.0 + 1800)
    sessions = [{"begun": 0.0, "ended": 3600.0}, {"begun": 10_000.0, "ended": None}]
    assert session_seconds(sessions) == 3600 + 1800


@pytest.mark.parametrize(("hours", "spent"), [(0.0, False), (2.0, False), (0.5, True)])
def test_a_sweep_is_interrupted_when_its_hours_are_spent(tmp_path, monkeypatch, hours, spent):
    """After a session of an hour; checked every ten seconds; 0 is no limit."""
    clock = [50.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    sessions = [{"begun": 0.0, "ended": 3600.0}]
    stored = {"options": {"hours": hours}, "sessions": sessions}
    (tmp_path / "sweep.json").write_text(json.dumps(stored))
    budget = Budget(tmp_path, SweepTable(tmp_path / "trials", 1, 9))
    budget.on_step_end(1, [])
    clock[0] = 61.0
    message = "--hours 0.5 are spent; --resume with more"
    with pytest.raises(BudgetSpentError, match=message) if spent else nullcontext():
        budget.on_step_end(2, [])


def test_running_trials_are_marked_stopped(tmp_path):
    for name, event in (("a", "ended"), ("b", "started")):
        describe_trial(tmp_path / name, {}, 9)
        note_event(tmp_path / name, "started")
        note_event(tmp_path / name, event)
    mark_stopped(tmp_path)
    assert [read_trial(tmp_path / name).state for name in "ab"] == ["interrupted", "stopped"]
