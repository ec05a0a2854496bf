"""Report of a sweep: trials -> `report.json`, and `report.html` for readers.

One file that asks the network for nothing: the ranked table, parallel coordinates, what mattered,
learning curves by rung, and where the time went.
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

from mindeye_dist.report_drawing import INKS, bars, svg
from mindeye_dist.sweep import Trial, costs, ranked, rung_of

Domains = Mapping[str, Mapping[str, Sequence[Any]]]
TICKS = 3


def write_sweep_report(
    folder: Path,
    trials: Sequence[Trial],
    about: Mapping[str, Any],
    *,
    levels: Sequence[int],
    importance: Mapping[str, float],
    command: str,
) -> Path:
    """Write a sweep's report into its folder and return the page.

    Args:
        folder: of the sweep.
        trials: all of them.
        about: its options, its space as JSON, and its sessions (begun, ended, slots).
        levels: epochs at which trials are compared, and the last.
        importance: share of each setting in the variance of the scores.
        command: that trains the best again.
    """
    order = ranked(trials)
    report = {
        "options": about["options"],
        "space": about["space"],
        "command": command,
        "levels": list(levels),
        "trials": [asdict(trial) for trial in trials],
        "ranking": [trial.name for trial in order],
        "rungs": [asdict(rung) for rung in costs(trials, levels)],
        "importance": dict(importance),
        "time": account(trials, about["sessions"]),
    }
    (folder / "report.json").write_text(json.dumps(report, indent=1))
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    source = resources.files("mindeye_dist").joinpath("report_sweep.html.j2").read_text()
    page = environment.from_string(source).render(
        report=report,
        order=order,
        unranked=[trial for trial in trials if trial not in order],
        shown=shown,
        curves=curves(trials, order, levels),
        coordinates=coordinates(order, about["space"]) if len(order) > 1 else Markup(""),
        mattered=importance_bars(importance) if importance else Markup(""),
    )
    path = folder / "report.html"
    path.write_text(page)
    return path


def account(trials: Sequence[Trial], sessions: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return where the time of a sweep's slots went, in seconds.

    A slot is room for one trial. `training`: optimizer steps, validations and checkpoints;
    `starting`: the rest of the trials' own time, which is processes, imports and data; `idle`:
    slots without a trial. A session that was killed has no end and is left out.
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


def curves(trials: Sequence[Trial], order: Sequence[Trial], levels: Sequence[int]) -> Markup:
    """Draw every trial's score by epoch; the further it came the stronger, the best in its own."""
    figure = Figure(figsize=(7.4, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for trial in trials:
        if not trial.curve:
            continue
        best = bool(order) and trial is order[0]
        reached = rung_of(trial, levels)
        ink = INKS["second" if best else "first" if reached == len(levels) else "soft"]
        axes.plot(
            [point.epoch for point in trial.curve],
            [point.score for point in trial.curve],
            color=ink,
            linewidth=2.2 if best else 1.1,
            alpha=1.0 if best else 0.35 + 0.5 * reached / len(levels),
            marker="o",
            markersize=3,
            zorder=3 if best else 2,
        )
    for level in levels:
        axes.axvline(level, color=INKS["faint"], linewidth=0.8, linestyle=":")
    axes.set_xlabel("epochs")
    axes.set_ylabel("val retrieval, top-1")
    axes.spines[["top", "right"]].set_visible(False)
    return svg(figure, f"Validation score of {len(trials)} trials by epoch")


def coordinates(order: Sequence[Trial], space: Domains) -> Markup:
    """Draw each trial as a line over one axis a setting and the score; the best on top."""
    figure = Figure(figsize=(max(7.4, 1.15 * len(space)), 4.2), layout="constrained")
    axes = figure.add_subplot()
    scores = [trial.best.score for trial in order if trial.best]
    low, high = min(scores), max(scores)
    names = [*space, "score"]
    for number, trial in reversed(list(enumerate(order))):
        places = [height(trial.params[path], domain) for path, domain in space.items()]
        places.append((scores[number] - low) / (high - low) if high > low else 0.5)
        ink = "second" if number == 0 else "first" if number < len(order) / 4 else "faint"
        axes.plot(
            range(len(names)),
            places,
            color=INKS[ink],
            linewidth=2.2 if number == 0 else 1.2,
            alpha=1.0 if number == 0 else 0.75,
        )
    marks = [ticks(domain) for domain in space.values()]
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


def height(value: Any, domain: Mapping[str, Sequence[Any]]) -> float:
    """Return where on its axis (0..1) a value of a domain is."""
    ((kind, values),) = domain.items()
    if kind == "choice":
        return list(values).index(value) / max(1, len(values) - 1)
    low, high = values
    if kind == "log_uniform":
        return math.log(value / low) / math.log(high / low)
    return float((value - low) / (high - low))


def ticks(domain: Mapping[str, Sequence[Any]]) -> list[tuple[float, str]]:
    """Return places and texts of a domain's ticks."""
    ((kind, values),) = domain.items()
    if kind == "choice":
        return [(height(value, domain), shown(value)) for value in values]
    low, high = values
    between = np.geomspace if kind == "log_uniform" else np.linspace
    return [(height(value, domain), shown(value)) for value in between(low, high, TICKS).tolist()]


def importance_bars(importance: Mapping[str, float]) -> Markup:
    """Draw each setting's share of the variance."""
    order = sorted(importance.items(), key=lambda item: -item[1])
    rows: dict[str, tuple[float, Sequence[float] | None]] = {n: (v, None) for n, v in order}
    return bars(rows, "Share of the scores' variance", max(importance.values()))


def shown(value: Any) -> str:
    """Return a setting's value, short."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
