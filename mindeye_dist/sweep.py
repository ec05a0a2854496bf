"""Sweep: the trials of a search, read from their own folders, ranked and accounted for.

A trial is a run (journal, checkpoints) whose folder also says what was tried (`trial.json`) and
what befell it (`events.jsonl`); nothing here depends on who ran it.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from mindeye_dist.engine.journal import read_journal, read_lines, write_whole

TRIAL, EVENTS = "trial.json", "events.jsonl"
State = Literal["finished", "settled", "stopped", "failed", "interrupted"]
STATES: dict[str, State] = {
    "stopped": "stopped",
    "settled": "settled",
    "failed": "failed",
    "died": "failed",
}
"""What a trial's last event makes of one that has not finished."""
WHOLE = ("finished", "settled")
"""States of trials whose best score is what their settings can do."""


@dataclass(frozen=True)
class Point:
    """A validation of a trial: epochs done, its score (0..1), seconds of training until it."""

    epoch: int
    score: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One trial of a sweep.

    Attributes:
        name: of its folder.
        params: what was tried, by dotted path.
        epochs: that a whole run has.
        curve: its validations.
        state: `finished` all its epochs; `settled`, no longer improving; `stopped` by the scheduler
            or a budget; `failed`; else `interrupted`.
        error: of a trial that failed.
        starts: how often it was started; more than once only after it had been interrupted.
        span: seconds from each start to the last sign of life after it, added up.
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
    def best(self) -> Point | None:
        """Return the best validation, the first of equals."""
        return max(self.curve, key=lambda point: point.score, default=None)

    @property
    def seconds(self) -> float:
        """Return the time of its training, up to its last validation."""
        return self.curve[-1].seconds if self.curve else 0.0


@dataclass(frozen=True)
class Rung:
    """What a sweep did between two epochs at which trials are compared."""

    first: int
    last: int
    entered: int
    passed: int
    seconds: float


def describe_trial(folder: Path, params: Mapping[str, Any], epochs: int) -> None:
    """Write what a trial is."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / TRIAL, json.dumps({"params": dict(params), "epochs": epochs}, indent=1))


def note_event(folder: Path, event: str, error: str = "") -> None:
    """Note that a trial `started`, `ended`, `settled`, `died`, was `stopped` or `failed`.

    What `died` may live the next time; what `failed` would fail again.
    """
    line = json.dumps({"time": time.time(), "event": event, "error": error})
    with (folder / EVENTS).open("a") as file:
        file.write(f"\n{line}\n")  # apart from what a kill may have cut short before it


def read_events(folder: Path) -> list[dict[str, Any]]:
    """Return what befell a trial, in order; lines cut short by a kill are left out."""
    return read_lines(folder / EVENTS)


def read_trial(folder: Path) -> Trial:
    """Return a trial from its folder."""
    about = json.loads((folder / TRIAL).read_text())
    events, rows = read_events(folder), read_journal(str(folder))
    curve = curve_of(rows)
    last = _end(events)
    state = STATES.get(last["event"], "interrupted")
    if curve and curve[-1].epoch >= about["epochs"]:
        state = "finished"
    return Trial(
        name=folder.name,
        params=about["params"],
        epochs=about["epochs"],
        curve=curve,
        state=state,
        error=last["error"],
        starts=sum(event["event"] == "started" for event in events),
        span=_span(events, [row["time"] for row in rows]),
    )


def read_trials(folder: Path) -> list[Trial]:
    """Return all trials below a folder, by name."""
    return [read_trial(path.parent) for path in sorted(folder.glob(f"*/{TRIAL}"))]


def curve_of(rows: Sequence[Mapping[str, Any]]) -> tuple[Point, ...]:
    """Return the validations in a journal's rows, with the time of training until each.

    A run that was resumed has several processes; what passed between them does not count.
    """
    points, before, begun, last, first_step = [], 0.0, 0.0, 0.0, None
    for row in rows:
        if "train/wall_s" in row and row["first_step"] != first_step:
            before += last - begun
            begun, first_step = row["time"] - row["train/wall_s"], row["first_step"]
        last = row["time"]
        if "val/score" in row:
            points.append(Point(row["epoch"] + 1, row["val/score"], before + last - begun))
    return tuple(points)


def ranked(trials: Sequence[Trial]) -> list[Trial]:
    """Return those that were validated, best first: of whole runs, then of the others."""
    scored = [(trial, trial.best.score) for trial in trials if trial.best]
    order = sorted(scored, key=lambda pair: (pair[0].state not in WHOLE, -pair[1], pair[0].name))
    return [trial for trial, _ in order]


def rung_levels(grace: int, factor: int, epochs: int) -> list[int]:
    """Return the epochs at which successive halving compares, and the last (Li et al. 2020)."""
    levels = []
    while grace < epochs:
        levels.append(grace)
        grace *= factor
    return [*levels, epochs]


def rung_of(trial: Trial, levels: Sequence[int]) -> int:
    """Return how many of the levels a trial has reached."""
    reached = trial.curve[-1].epoch if trial.curve else 0
    return sum(reached >= level for level in levels)


def costs(trials: Sequence[Trial], levels: Sequence[int]) -> list[Rung]:
    """Return how many trials entered and passed each rung, and what it cost.

    A trial is compared at its first validation at a level or after it.
    """
    rungs, first = [], 0
    for level in levels:
        ways = [(_reached(trial, first), _reached(trial, level)) for trial in trials if trial.curve]
        ways = [(start, end) for start, end in ways if end.epoch > start.epoch]
        passed = sum(end.epoch >= level for _, end in ways)
        seconds = sum(end.seconds - start.seconds for start, end in ways)
        rungs.append(Rung(first, level, len(ways), passed, seconds))
        first = level
    return rungs


def _reached(trial: Trial, level: int) -> Point:
    """Return the first validation at a level or after it, or else the last."""
    start = Point(0, 0.0, 0.0)
    later = (point for point in (start, *trial.curve) if point.epoch >= level)
    return next(later, trial.curve[-1])


def _end(events: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return how the last start ended; what a stopped trial's dying processes say is not it."""
    since: list[Mapping[str, Any]] = [{"event": "", "error": ""}]
    for event in events:
        since = [event] if event["event"] == "started" else [*since, event]
    told = [event for event in since if event["event"] in ("stopped", "settled")]
    return (told or since)[-1]


def _span(events: Sequence[Mapping[str, Any]], signs: Sequence[float]) -> float:
    starts = [event["time"] for event in events if event["event"] == "started"]
    alive = sorted([*signs, *(event["time"] for event in events if event["event"] != "started")])
    total = 0.0
    for start, following in pairwise([*starts, float("inf")]):
        total += max((sign for sign in alive if start <= sign < following), default=start) - start
    return total
