"""Records and report of a sweep's trials. Oracles: closed forms, and curves made by hand."""

import json
from dataclasses import replace

import numpy as np
import pytest

from jobs.sweeps.records import (
    Point,
    TrialRecord,
    curve_of,
    describe_trial,
    note_event,
    rank_trials,
    read_events,
    read_trial,
    read_trials,
    rung_costs,
    rung_levels,
    rung_of,
)
from jobs.sweeps.report import account_time, axis_height, write_sweep_report


def trial(name, scores, state="finished", epochs=9, seconds=10.0, **more):
    curve = tuple(Point(i + 1, score, seconds * (i + 1)) for i, score in enumerate(scores))
    fields = {"params": {}, "error": "", "starts": 1, "span": seconds * len(scores) + 5.0}
    return TrialRecord(name=name, epochs=epochs, curve=curve, state=state, **(fields | more))


def train_row(time, first_step, wall):
    return {"time": time, "first_step": first_step, "train/wall_s": wall}


def val_row(time, epoch, score):
    return {"time": time, "epoch": epoch, "val/score": score}


def test_a_curve_counts_training_time_only():
    """Two processes, an hour apart: the second began its training at 3,700 and knew of 5 steps."""
    rows = [
        train_row(102.0, 0, 2.0),
        val_row(110.0, 0, 0.1),
        train_row(115.0, 0, 15.0),
        train_row(3703.0, 5, 3.0),
        val_row(3720.0, 1, 0.2),
    ]
    assert curve_of(rows) == (Point(1, 0.1, 10.0), Point(2, 0.2, 15.0 + 20.0))
    assert curve_of([]) == ()


def test_finished_trials_rank_first():
    """A stopped trial does not win by a lucky early score: its final score is unknown."""
    trials = [
        trial("a", [0.1, 0.9], "stopped"),
        trial("b", [0.1, 0.5]),
        trial("c", [], "failed", error="diverged"),
        trial("d", [0.7, 0.6]),
    ]
    assert [t.name for t in rank_trials(trials)] == ["d", "b", "a"]
    assert trials[3].best_point == Point(1, 0.7, 10.0)


@pytest.mark.parametrize(
    ("grace", "factor", "epochs", "levels"),
    [(3, 3, 9, [3, 9]), (1, 3, 9, [1, 3, 9]), (2, 4, 20, [2, 8, 20]), (9, 3, 9, [9])],
)
def test_rungs_are_powers_of_the_factor(grace, factor, epochs, levels):
    assert rung_levels(grace, factor, epochs) == levels


def test_the_cost_of_rungs_adds_up_to_all_training():
    trials = [
        trial("a", np.linspace(0, 1, 9)),
        trial("b", [0.1, 0.2, 0.3], "stopped"),
        trial("c", [0.1], "failed"),
    ]
    first, last = rung_costs(trials, [3, 9])
    assert (first.entered, first.passed, first.seconds) == (3, 2, 30 + 30 + 10)
    assert (last.entered, last.passed, last.seconds) == (1, 1, 60)
    assert first.seconds + last.seconds == sum(t.seconds for t in trials)
    assert [rung_of(t, [3, 9]) for t in trials] == [2, 1, 0]


def test_a_trial_is_compared_at_its_first_validation_from_a_level_on():
    """Validated every four epochs: rungs 2 and 6 are seen at 4 and 8."""

    def sparse(name, epochs, state="finished"):
        curve = tuple(Point(e, 0.5, 10.0 * e) for e in epochs)
        return replace(trial(name, [], state, epochs=12), curve=curve)

    trials = [sparse("a", (4, 8, 12)), sparse("b", (4,), "stopped")]
    rungs = [(r.entered, r.passed, r.seconds) for r in rung_costs(trials, [2, 6, 12])]
    assert rungs == [(2, 2, 40 + 40), (1, 1, 40), (1, 1, 40)]


def test_a_slot_is_training_starting_or_idle():
    """Two slots for 100 s; trials held them for 95 and 35 s, 90 and 30 of them trained."""
    trials = [trial("a", [0.1] * 9), trial("b", [0.1] * 3, "stopped")]
    seconds = account_time(trials, [{"begun": 1000.0, "ended": 1100.0, "slots": 2}])
    assert seconds == {"wall": 100, "slots": 200, "training": 120, "starting": 10, "idle": 70}


def write_trial(folder, scores, events, epochs=3, params=None):
    describe_trial(folder, params or {"optimizer.max_lr": 1e-3}, epochs)
    rows = [
        row
        for i, score in enumerate(scores)
        for row in (
            {"step": i, **train_row(10.0 * (i + 1), 0, 10.0 * (i + 1))},
            {"step": i, **val_row(10.0 * (i + 1), i, score)},
        )
    ]
    (folder / "journal.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for event, error in events:
        note_event(folder, event, error)


@pytest.mark.parametrize(
    ("scores", "events", "state"),
    [
        ([0.1, 0.2, 0.3], [("started", ""), ("ended", "")], "finished"),
        ([0.1, 0.2, 0.3], [("started", "")], "finished"),  # killed after its last checkpoint
        ([0.1], [("started", ""), ("stopped", "")], "stopped"),
        ([0.1], [("started", ""), ("failed", "loss is nan")], "failed"),
        ([0.1], [("started", ""), ("died", "a node")], "failed"),
        ([0.1], [("started", ""), ("died", "a node"), ("started", "")], "interrupted"),
        ([0.1], [("started", ""), ("stopped", ""), ("died", "a stopped process")], "stopped"),
        ([0.1], [("started", "")], "interrupted"),
        ([], [], "interrupted"),
    ],
)
def test_a_trials_state_follows_from_its_events(tmp_path, scores, events, state):
    write_trial(tmp_path / "t", scores, events)
    (record,) = read_trials(tmp_path)
    assert record == read_trial(tmp_path / "t")
    assert record.state == state
    assert [point.score for point in record.curve] == scores
    assert record.starts == len([e for e in events if e[0] == "started"])
    assert record.error == (events[-1][1] if state == "failed" else "")


def test_a_line_cut_short_by_a_kill_is_left_out(tmp_path):
    write_trial(tmp_path / "t", [0.1], [("started", "")])
    with (tmp_path / "t" / "events.jsonl").open("a") as file:
        file.write('{"time": 1.0, "eve')
    note_event(tmp_path / "t", "failed", "loss is nan")
    assert [event["event"] for event in read_events(tmp_path / "t")] == ["started", "failed"]


@pytest.mark.parametrize(
    ("domain", "value", "height"),
    [
        ({"uniform": [2.0, 4.0]}, 3.0, 0.5),
        ({"log_uniform": [1e-4, 1e-2]}, 1e-3, 0.5),
        ({"integer": [1, 5]}, 2, 0.25),
        ({"choice": ["a", "b", "c"]}, "b", 0.5),
        ({"choice": [7]}, 7, 0.0),
    ],
)
def test_heights_on_the_axes_of_parallel_coordinates(domain, value, height):
    assert axis_height(value, domain) == pytest.approx(height)


def test_the_page_shows_ranking_command_and_errors(tmp_path):
    for number, scores in enumerate([[0.1, 0.2, 0.345], [0.3], [0.2, 0.1, 0.25]]):
        events = [("started", ""), ("ended" if len(scores) == 3 else "stopped", "")]
        params = {"optimizer.max_lr": 10.0 ** -(number + 2)}
        write_trial(tmp_path / "trials" / f"t{number}", scores, events, params=params)
    write_trial(tmp_path / "trials" / "t3", [], [("started", ""), ("failed", "<b>nan</b>")])
    stored = {
        "options": {"recipe": "demo", "search": "random", "scheduler": "asha", "seed": 0},
        "space": {"optimizer.max_lr": {"log_uniform": [1e-4, 1e-2]}},
        "sessions": [{"begun": 0.0, "ended": 120.0, "slots": 1}],
    }
    page = write_sweep_report(
        tmp_path,
        read_trials(tmp_path / "trials"),
        stored,
        levels=[1, 3],
        importance={"optimizer.max_lr": 1.0},
        command="python jobs/train.py --optimizer.max-lr 0.01",
    ).read_text()
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["ranking"] == ["t0", "t2", "t1"]
    assert [rung["passed"] for rung in report["rungs"]] == [3, 2]
    assert "0.345" in page
    assert "python jobs/train.py --optimizer.max-lr 0.01" in page
    assert "&lt;b&gt;nan" in page
    assert "<b>nan" not in page
    assert page.count("<svg") == 3
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")
