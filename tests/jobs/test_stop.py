"""Stop rules of a sweep. Oracles: curves and clocks made by hand."""

import json

import pytest

from jobs.search import EPOCH, SCORE
from jobs.stop import Stop, spent
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
    folder = tmp_path / "trials" / "a"
    write_trial(folder, CURVE)
    stop = Stop(tmp_path, patience=2, gpus=0)
    said = [stop("a", {SCORE: s, EPOCH: e}) for e, s in enumerate(CURVE[:4], 1)]
    assert said == [False, False, False, True]
    assert [event["event"] for event in read_events(folder)] == ["started", "settled"]
    assert read_trial(folder).state == "settled"
    never = Stop(tmp_path, patience=0, gpus=0)
    assert not any(never("a", {SCORE: 0.1, EPOCH: e}) for e in range(50))


def test_patience_counts_over_sessions(tmp_path):
    """The second session first hears of epoch 4; the best was epoch 2, of the first."""
    write_trial(tmp_path / "trials" / "a", CURVE[:4])
    assert Stop(tmp_path, patience=2, gpus=0)("a", {SCORE: 0.3, EPOCH: 4})
    assert not Stop(tmp_path, patience=3, gpus=0)("a", {SCORE: 0.3, EPOCH: 4})


def about(hours=0.0, gpu_hours=0.0, sessions=()):
    return {"options": {"hours": hours, "gpu_hours": gpu_hours}, "sessions": list(sessions)}


def test_hours_count_over_sessions(tmp_path, monkeypatch):
    """One of an hour, killed in the second after half an hour."""
    monkeypatch.setattr("time.time", lambda: 10_000.0 + 1800)
    sessions = [{"begun": 0.0, "ended": 3600.0}, {"begun": 10_000.0, "ended": None}]
    assert spent(about(1.5, 0, sessions), tmp_path, 0)
    assert not spent(about(1.6, 0, sessions), tmp_path, 0)
    assert not spent(about(0, 0, sessions), tmp_path, 0)


def test_gpu_hours_are_those_that_trials_held(tmp_path, monkeypatch):
    """Two trials of half an hour on two GPUs each are two GPU hours."""
    for name in ("a", "b"):
        for event, now in (("started", 1000.0), ("ended", 1000.0 + 1800)):
            describe_trial(tmp_path / name, {}, 1)
            monkeypatch.setattr("time.time", lambda now=now: now)
            note_event(tmp_path / name, event)
    assert spent(about(0, 2.0), tmp_path, 2.0)
    assert not spent(about(0, 2.1), tmp_path, 2.0)


@pytest.mark.parametrize("hours", [0.5, 2.0])
def test_a_sweep_ends_by_what_its_folder_says(tmp_path, hours):
    """Read anew at each look: --resume may have given it more."""
    sessions = [{"begun": 0.0, "ended": 3600.0}]
    (tmp_path / "sweep.json").write_text(json.dumps(about(hours, 0, sessions)))
    assert Stop(tmp_path, 0, 0).stop_all() == (hours < 1)
