"""Report of a sweep: `report.json`, and the page `report.html`, which loads nothing by network.

The page has a ranked table, parallel coordinates, the importance of each setting, learning curves
and the time that training, starting and idle slots took.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from jobs.sweeps.records import TrialRecord, rank_trials, rung_costs, rung_of
from mindeye_dist.reports.plots import INKS, bars, svg

Domains = Mapping[str, Mapping[str, Sequence[Any]]]
TICKS = 3


def write_sweep_report(
    folder: Path,
    trials: Sequence[TrialRecord],
    stored: Mapping[str, Any],
    *,
    levels: Sequence[int],
    importance: Mapping[str, float],
    command: str,
) -> Path:
    """Write a sweep's report into its folder and return the page.

    Args:
        folder: the sweep's folder.
        trials: all trials.
        stored: content of `sweep.json`: options, space, sessions (begun, ended, slots).
        levels: epochs at which trials are compared, and the last epoch.
        importance: share of each setting in the variance of the scores.
        command: command that trains the best trial again.
    """
    order = rank_trials(trials)
    report = {
        "options": stored["options"],
        "space": stored["space"],
        "command": command,
        "levels": list(levels),
        "trials": [asdict(trial) for trial in trials],
        "ranking": [trial.name for trial in order],
        "rungs": [asdict(rung) for rung in rung_costs(trials, levels)],
        "importance": dict(importance),
        "time": account_time(trials, stored["sessions"]),
    }
    (folder / "report.json").write_text(json.dumps(report, indent=1))
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    source = resources.files("jobs.sweeps").joinpath("report.html.j2").read_text()
    page = environment.from_string(source).render(
        report=report,
        order=order,
        unranked=[trial for trial in trials if trial not in order],
        format_value=format_value,
        curves=draw_curves(trials, order, levels),
        coordinates=draw_coordinates(order, stored["space"]) if len(order) > 1 else Markup(""),
        importance=draw_importance(importance) if importance else Markup(""),
    )
    path = folder / "report.html"
    path.write_text(page)
    return path


def account_time(
    trials: Sequence[TrialRecord], sessions: Sequence[Mapping[str, float]]
) -> dict[str, float]:
    """Return the seconds that a sweep's slots spent training, starting trials and idle.

    A slot is room for one trial. `training`: optimizer steps, validations and checkpoints.
    `starting`: the rest of the trials' time, for processes, imports and data. `idle`: slots
    without a trial. `wall`: duration of the sweep. `slots`: the same, times the slots.
    """
    wall = sum(session["ended"] - session["begun"] for session in sessions)
    slots = sum(s["slots"] * (s["ended"] - s["begun"]) for s in sessions)
    training = sum(trial.seconds for trial in trials)
    held = sum(trial.span for trial in trials)
    return {
        "wall": wall,
        "slots": slots,
        "training": training,
        "starting": held - training,
        "idle": max(0.0, slots - held),
    }


def draw_curves(
    trials: Sequence[TrialRecord], order: Sequence[TrialRecord], levels: Sequence[int]
) -> Markup:
    """Draw each trial's score by epoch; stronger with each rung, the best in another colour."""
    figure = Figure(figsize=(7.4, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for trial in trials:
        if not trial.curve:
            continue
        is_best = bool(order) and trial is order[0]
        reached = rung_of(trial, levels)
        ink = INKS["second" if is_best else "first" if reached == len(levels) else "soft"]
        axes.plot(
            [point.epoch for point in trial.curve],
            [point.score for point in trial.curve],
            color=ink,
            linewidth=2.2 if is_best else 1.1,
            alpha=1.0 if is_best else 0.35 + 0.5 * reached / len(levels),
            marker="o",
            markersize=3,
            zorder=3 if is_best else 2,
        )
    for level in levels:
        axes.axvline(level, color=INKS["faint"], linewidth=0.8, linestyle=":")
    axes.set_xlabel("epochs")
    axes.set_ylabel("val retrieval, top-1")
    axes.spines[["top", "right"]].set_visible(False)
    return svg(figure, f"Validation score of {len(trials)} trials by epoch")


def draw_coordinates(order: Sequence[TrialRecord], space: Domains) -> Markup:
    """Draw parallel coordinates: a line for each trial, an axis for each setting and the score."""
    figure = Figure(figsize=(max(7.4, 1.15 * len(space)), 4.2), layout="constrained")
    axes = figure.add_subplot()
    scores = [trial.best_point.score for trial in order if trial.best_point]
    low, high = min(scores), max(scores)
    names = [*space, "score"]
    for number, trial in reversed(list(enumerate(order))):
        heights = [axis_height(trial.params[path], domain) for path, domain in space.items()]
        heights.append((scores[number] - low) / (high - low) if high > low else 0.5)
        ink = "second" if number == 0 else "first" if number < len(order) / 4 else "faint"
        axes.plot(
            range(len(names)),
            heights,
            color=INKS[ink],
            linewidth=2.2 if number == 0 else 1.2,
            alpha=1.0 if number == 0 else 0.75,
        )
    marks = [axis_ticks(domain) for domain in space.values()]
    marks.append([(0.0, f"{low:.3f}"), (1.0, f"{high:.3f}")])
    for place, column in enumerate(marks):
        axes.axvline(place, color=INKS["text"], linewidth=0.8)
        for level, text in column:
            axes.annotate(text, (place, level), (4, 2), textcoords="offset points", fontsize=8)
    labels = [name.replace(".", ".\n") for name in names]
    axes.set_xticks(range(len(names)), labels, fontsize=8, rotation=35, ha="right")
    axes.set_yticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return svg(figure, "Settings and score of each trial")


def axis_height(value: Any, domain: Mapping[str, Sequence[Any]]) -> float:
    """Return a value's height on the axis of its domain, 0 to 1."""
    ((kind, values),) = domain.items()
    if kind == "choice":
        return list(values).index(value) / max(1, len(values) - 1)
    low, high = values
    if kind == "log_uniform":
        return math.log(value / low) / math.log(high / low)
    return float((value - low) / (high - low))


def axis_ticks(domain: Mapping[str, Sequence[Any]]) -> list[tuple[float, str]]:
    """Return heights and labels of the ticks on a domain's axis."""
    ((kind, values),) = domain.items()
    if kind == "choice":
        return [(axis_height(value, domain), format_value(value)) for value in values]
    low, high = values
    between = np.geomspace if kind == "log_uniform" else np.linspace
    return [
        (axis_height(value, domain), format_value(value))
        for value in between(low, high, TICKS).tolist()
    ]


def draw_importance(importance: Mapping[str, float]) -> Markup:
    """Draw each setting's share of the scores' variance as bars."""
    order = sorted(importance.items(), key=lambda item: -item[1])
    rows: dict[str, tuple[float, Sequence[float] | None]] = {n: (v, None) for n, v in order}
    return bars(rows, "Share of the scores' variance", max(importance.values()))


def format_value(value: Any) -> str:
    """Format a setting's value, floats to three digits."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
