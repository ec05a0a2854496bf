"""Records of a sweep's trials: read from the trials' folders, ranked, with the cost of each rung.

A trial's folder is a run's folder (journal, checkpoints) with two files more: its settings
(`trial.json`) and the events of its life (`events.jsonl`). Independent of Ray Tune.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from mindeye_dist.runs.journal import read_journal, read_lines, write_atomically

TRIAL, EVENTS = "trial.json", "events.jsonl"
State = Literal["finished", "stopped", "failed", "interrupted"]
STATES: dict[str, State] = {"stopped": "stopped", "failed": "failed", "died": "failed"}
"""State of an unfinished trial by its last event; any other event means `interrupted`."""


@dataclass(frozen=True)
class Point:
    """One validation of a trial.

    Attributes:
        epoch: number of epochs done.
        score: retrieval on val, 0 to 1.
        seconds: training time until this validation.
    """

    epoch: int
    score: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """One trial of a sweep, as its folder records it.

    Attributes:
        name: name of its folder.
        params: its settings, by dotted path.
        epochs: number of epochs of a whole trial.
        curve: its validations.
        state: `finished` (all epochs), `stopped` (by the scheduler or the time limit), `failed` or
            `interrupted`.
        error: message of the error that ended a failed trial, else empty.
        starts: number of starts; more than one only after an interruption.
        span: seconds from each start to the last row or event after it, summed.
    """

    name: str
    params: dict[str, Any]
    epochs: int
    curve: tuple[Point, ...]
    state: State
    error: str
    starts: int
    span: float

    @property
    def best_point(self) -> Point | None:
        """Return the validation with the highest score, the first of equals."""
        return max(self.curve, key=lambda point: point.score, default=None)

    @property
    def seconds(self) -> float:
        """Return the training time until the last validation, in seconds."""
        return self.curve[-1].seconds if self.curve else 0.0


@dataclass(frozen=True)
class Rung:
    """Training between two epochs at which trials are compared.

    Attributes:
        first: the epoch of the comparison before.
        last: the epoch of the comparison.
        entered: number of trials that trained in between.
        passed: number of trials that reached `last`.
        seconds: their training time.
    """

    first: int
    last: int
    entered: int
    passed: int
    seconds: float


def describe_trial(folder: Path, params: Mapping[str, Any], epochs: int) -> None:
    """Write a trial's settings and number of epochs into its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(
        folder / TRIAL, json.dumps({"params": dict(params), "epochs": epochs}, indent=1)
    )


def note_event(folder: Path, event: str, error: str = "") -> None:
    """Append an event: `started`, `ended`, `stopped`, `died` or `failed`.

    A trial that `died` may succeed when restarted; a trial that `failed` would fail again.
    """
    line = json.dumps({"time": time.time(), "event": event, "error": error})
    with (folder / EVENTS).open("a") as file:
        file.write(f"\n{line}\n")  # on a line of its own, even after one that a kill cut short


def read_events(folder: Path) -> list[dict[str, Any]]:
    """Read a trial's events in order, without lines that a kill cut short."""
    return read_lines(folder / EVENTS)


def read_trial(folder: Path) -> TrialRecord:
    """Read a trial from its folder."""
    stored = json.loads((folder / TRIAL).read_text())
    events, rows = read_events(folder), read_journal(str(folder))
    curve = curve_of(rows)
    last = _last_event(events)
    state = STATES.get(last["event"], "interrupted")
    if curve and curve[-1].epoch >= stored["epochs"]:
        state = "finished"
    return TrialRecord(
        name=folder.name,
        params=stored["params"],
        epochs=stored["epochs"],
        curve=curve,
        state=state,
        error=last["error"],
        starts=sum(event["event"] == "started" for event in events),
        span=_span(events, [row["time"] for row in rows]),
    )


def read_trials(folder: Path) -> list[TrialRecord]:
    """Read all trials below a folder, in order of their names."""
    return [read_trial(path.parent) for path in sorted(folder.glob(f"*/{TRIAL}"))]


def curve_of(rows: Sequence[Mapping[str, Any]]) -> tuple[Point, ...]:
    """Return the validations in a journal's rows, with the training time until each.

    The time between the processes of a resumed run does not count.
    """
    # before: seconds of earlier processes; begun, last: start and newest row of this process.
    points, before, begun, last, first_step = [], 0.0, 0.0, 0.0, None
    for row in rows:
        if "train/wall_s" in row and row["first_step"] != first_step:
            before += last - begun
            begun, first_step = row["time"] - row["train/wall_s"], row["first_step"]
        last = row["time"]
        if "val/score" in row:
            points.append(Point(row["epoch"] + 1, row["val/score"], before + last - begun))
    return tuple(points)


def rank_trials(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Return the trials that have a score: finished ones, then the others, each best first."""
    scored = [(trial, trial.best_point.score) for trial in trials if trial.best_point]
    order = sorted(scored, key=lambda pair: (pair[0].state != "finished", -pair[1], pair[0].name))
    return [trial for trial, _ in order]


def rung_levels(grace: int, factor: int, epochs: int) -> list[int]:
    """Return the epochs at which ASHA compares (Li et al. 2020), and the last epoch."""
    levels = []
    while grace < epochs:
        levels.append(grace)
        grace *= factor
    return [*levels, epochs]


def rung_of(trial: TrialRecord, levels: Sequence[int]) -> int:
    """Return the number of levels that a trial has reached."""
    reached = trial.curve[-1].epoch if trial.curve else 0
    return sum(reached >= level for level in levels)


def rung_costs(trials: Sequence[TrialRecord], levels: Sequence[int]) -> list[Rung]:
    """Return for each rung the number of trials and their training time.

    A trial is compared at its first validation at a level or after it.
    """
    rungs, first = [], 0
    for level in levels:
        pairs = [
            (_point_at(trial, first), _point_at(trial, level)) for trial in trials if trial.curve
        ]
        pairs = [(start, end) for start, end in pairs if end.epoch > start.epoch]
        passed = sum(end.epoch >= level for _, end in pairs)
        seconds = sum(end.seconds - start.seconds for start, end in pairs)
        rungs.append(Rung(first, level, len(pairs), passed, seconds))
        first = level
    return rungs


def _point_at(trial: TrialRecord, level: int) -> Point:
    """Return the first validation at or after a level, or else the last validation."""
    start = Point(0, 0.0, 0.0)
    later = (point for point in (start, *trial.curve) if point.epoch >= level)
    return next(later, trial.curve[-1])


def _last_event(events: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the event that ended the last start.

    Errors of processes that were already stopped are ignored.
    """
    since: list[Mapping[str, Any]] = [{"event": "", "error": ""}]
    for event in events:
        since = [event] if event["event"] == "started" else [*since, event]
    stops = [event for event in since if event["event"] == "stopped"]
    return (stops or since)[-1]


def _span(events: Sequence[Mapping[str, Any]], row_times: Sequence[float]) -> float:
    """Return the seconds from each start to the last row or event before the next, summed."""
    starts = [event["time"] for event in events if event["event"] == "started"]
    ends = [event["time"] for event in events if event["event"] != "started"]
    times = sorted([*row_times, *ends])
    total = 0.0
    for start, following in pairwise([*starts, float("inf")]):
        total += max((each for each in times if start <= each < following), default=start) - start
    return total
