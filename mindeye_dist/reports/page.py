"""Report: an evaluation and its run's journal -> `report.json`, and `report.html` for readers.

The page is one file that asks the network for nothing: style, plots (SVG) and pictures (data URIs)
are inside it. It puts every score (retrieval as in Scotti et al. 2023, section 4.1) beside what
frames it: chance, a ridge baseline, shuffled brains and, for a simulated brain, the ideal observer.
"""

import json
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from mindeye_dist.evaluation.results import Evaluation, LowLevel
from mindeye_dist.metrics import DIRECTIONS
from mindeye_dist.reports.pictures import pictures_page
from mindeye_dist.reports.plots import (
    INKS,
    bars,
    opened,
    painted,
    percent,
    svg,
    three,
    thumbnail_uri,
)
from mindeye_dist.runs.folder import PAGE, REPORT
from mindeye_dist.strict import paths

CURVE_POINTS = 300

MEASURES = {"raw": "", "centred": "_centred"}
"""Suffix of a direction's key by how its scores were made."""

ROWS = {
    "model": "This model",
    "ridge": "Ridge regression",
    "optimal_linear": "Best linear decoder",
    "optimal": "Ideal observer",
    "shuffled": "Shuffled brains",
}
"""Rows of the retrieval table in reading order; rows it does not name follow under their own."""

LOWLEVEL_ROWS = {
    "model": "This model",
    "ridge": "Ridge regression",
    "perfect_latents": "Perfect latents",
    "mean_picture": "Mean picture for every brain",
    "shuffled": "Shuffled brains",
}
"""Rows of the low-level table in reading order."""

LOSSES = {
    "Total loss": {"train/total": "training", "val/total": "validation"},
    "Contrastive loss": {"train/contrastive": "training", "val/contrastive": "validation"},
}
SCHEDULES = {
    "Learning rate": {"train/lr": "learning rate"},
    "Temperature": {"train/temperature": "temperature"},
}
CURVES = {
    "highlevel": LOSSES
    | {
        "Prior loss": {"train/prior": "training", "val/prior": "validation"},
        "Validation top-1 (0 to 1)": {
            f"val/top1_{name}": name.replace("_", " ") for name in DIRECTIONS
        },
    }
    | SCHEDULES,
    "lowlevel": LOSSES
    | {
        "Error of the latents": {"train/latents": "training", "val/latents": "validation"},
        "Correlation of the latents": {"val/latent_correlation": "validation"},
    }
    | SCHEDULES,
}
"""Lines of each plot of a pipeline by their key in the journal."""


def write_report(
    folder: Path, evaluation: Evaluation, journal: list[dict[str, Any]], train: dict[str, Any]
) -> Path:
    """Write `report.json` and `report.html` into a folder and return the page's path.

    Args:
        folder: made if it is not there.
        evaluation: of the checkpoint.
        journal: metrics of its run; may be empty.
        train: what training took; a key may be missing, or None where it does not apply.
    """
    report = evaluation.report | {"train": train}
    if evaluation.lowlevel is not None:
        report["lowlevel"] = evaluation.lowlevel.report
    if evaluation.reconstructed is not None:
        report["pictures"] = evaluation.reconstructed.report
    text = json.dumps(report, indent=2, sort_keys=True, allow_nan=False) + "\n"
    page = _page(report, evaluation, journal)
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / REPORT, text)
    return _write(folder / PAGE, page)


def _write(path: Path, text: str) -> Path:
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    return partial.replace(path)


def _page(report: dict[str, Any], evaluation: Evaluation, journal: list[dict[str, Any]]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_template),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "duration": _duration, "three": three}
    made = evaluation.reconstructed
    rows = _rows(report["retrieval"]) if "retrieval" in report else {}
    return environment.get_template("report.html.j2").render(
        report=report,
        rows=rows,
        measures=MEASURES,
        bars={direction: _bars(rows, direction) for direction in DIRECTIONS if rows},
        curves=_curves(journal, report["config"]),
        switch=_switch(report["config"]),
        examples=evaluation.examples,
        pictures={n: thumbnail_uri(opened(data)) for n, data in evaluation.pictures.items()},
        lowlevel_rows=LOWLEVEL_ROWS,
        lowlevel_examples=_lowlevel_examples(evaluation.lowlevel),
        made=None if made is None else pictures_page(made),
        settings=paths(report["config"]),
    )


def _template(name: str) -> str:
    return resources.files("mindeye_dist.reports").joinpath("templates", name).read_text("utf-8")


def _rows(retrieval: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the scores of each row by its label; chance, which has no interval, comes last."""
    found = {name: row for name, row in retrieval.items() if isinstance(row, dict)}
    rows = {label: found.pop(name) for name, label in ROWS.items() if name in found}
    pool = retrieval["pool"]
    chance = {"top1": retrieval["chance"], "top1_ci": None}
    chance |= {"top5": min(1, 5 / pool), "median_rank": (pool + 1) / 2}
    keys = [direction + suffix for direction in DIRECTIONS for suffix in MEASURES.values()]
    return rows | found | {"Chance": dict.fromkeys(keys, chance)}


def _bars(rows: dict[str, dict[str, Any]], direction: str) -> Markup:
    """Draw top-1 with its interval for every row: raw as a bar, centred as a thin one below it."""
    raw, centred = (direction + suffix for suffix in MEASURES.values())
    scores = [score for row in rows.values() for score in row.values()]
    return bars(
        {label: (row[raw]["top1"], row[raw]["top1_ci"]) for label, row in rows.items()},
        f"Top-1 {direction.replace('_', ' ')}",
        limit=max(max(score["top1_ci"] or [score["top1"]]) for score in scores),
        thin=[row[centred]["top1"] for row in rows.values()],
    )


def _curves(journal: list[dict[str, Any]], config: dict[str, Any]) -> dict[str, Markup | None]:
    """Draw the journal over epochs; a plot that it has no rows for is None."""
    last = max((row.get("total_steps", row["step"]) for row in journal), default=1)
    epochs = config["training"]["epochs"] / max(last, 1)
    plots: dict[str, Markup | None] = {}
    for title, names in CURVES[config["pipeline"]].items() if journal else ():
        lines: dict[str, np.ndarray] = {}
        for key, name in names.items():
            points = np.array([(epochs * row["step"], row[key]) for row in journal if key in row])
            lines |= {name: points} if len(points) else {}
        plots[title] = _plot(title, lines, config, legend=len(names) > 1) if lines else None
    return plots


def _plot(
    title: str, lines: dict[str, np.ndarray], config: dict[str, Any], *, legend: bool
) -> Markup:
    figure = Figure(figsize=(4.2, 2.5), layout="constrained")
    axes = figure.add_subplot(xlabel="epoch", xlim=(0, config["training"]["epochs"]))
    for (name, points), ink in zip(lines.items(), ("first", "second"), strict=False):
        marker = "o" if len(points) == 1 else ""
        axes.plot(*_thinned(points).T, color=INKS[ink], label=name, marker=marker)
    if (switch := _switch(config)) is not None:
        axes.axvline(switch, color=INKS["faint"], linestyle="--", linewidth=1, zorder=0)
    if legend:
        axes.legend(frameon=False)
    axes.ticklabel_format(axis="y", scilimits=(-3, 4))
    axes.spines[["top", "right"]].set_visible(False)
    ends = ", ".join(f"{name} ends at {points[-1, 1]:.4g}" for name, points in lines.items())
    return svg(figure, f"{title} over epochs: {ends}")


def _thinned(points: np.ndarray) -> np.ndarray:
    """Return at most CURVE_POINTS points, each the mean of its neighbours."""
    parts = np.array_split(points, min(len(points), CURVE_POINTS))
    return np.array([part.mean(axis=0) for part in parts])


def _switch(config: dict[str, Any]) -> int | None:
    """Return the epoch in which SoftCLIP takes over from BiMixCo, if both of them are used."""
    if config["pipeline"] == "lowlevel":
        return None
    epochs = config["training"]["epochs"]
    epoch = int(config["loss"]["mixco_fraction"] * epochs)
    return epoch if 0 < epoch < epochs else None


def _lowlevel_examples(lowlevel: LowLevel | None) -> list[list[str]]:
    """Return each example's three pictures: seen, predicted, and by perfect latents."""
    return [
        [
            thumbnail_uri(opened(seen)),
            *(thumbnail_uri(painted(rgb)) for rgb in made),
        ]
        for seen, *made in (lowlevel.examples if lowlevel else ())
    ]


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
