"""Report: an evaluation and its run's journal -> `report.json` and the page `report.html`.

The page is one file without external resources: style, plots (SVG) and pictures (data URIs) are
inside. Every score stands beside its references: chance, ridge regression, shuffled brains and, for
a simulated brain, the ideal observer. Scotti et al. (2023), section 4.1.
"""

import json
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from mindeye_dist.config import mixco_epochs
from mindeye_dist.evaluation.results import Evaluation, LowLevelResult
from mindeye_dist.metrics import DIRECTIONS
from mindeye_dist.reports.pictures import pictures_section
from mindeye_dist.reports.plots import (
    INKS,
    bars,
    from_unit,
    open_rgb,
    percent,
    svg,
    three_decimals,
    thumbnail_uri,
)
from mindeye_dist.runs.folder import PAGE, REPORT
from mindeye_dist.strict import paths

CURVE_POINTS = 300
"""Largest number of points in a curve."""
MEASURES = {"raw": "", "centred": "_centred"}
"""Suffix of a direction's key in the report, by the kind of similarity."""

RETRIEVAL_ROWS = {
    "model": "This model",
    "ridge": "Ridge regression",
    "optimal_linear": "Best linear decoder",
    "optimal": "Ideal observer",
    "shuffled": "Shuffled brains",
}
"""Labels of the retrieval table's rows, in order; other rows follow under their own names."""

LOWLEVEL_ROWS = {
    "model": "This model",
    "ridge": "Ridge regression",
    "perfect_latents": "Perfect latents",
    "mean_picture": "Mean picture for every brain",
    "shuffled": "Shuffled brains",
}
"""Labels of the low-level table's rows, in order."""

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
"""Plots of each pipeline by title; labels of their lines by key in the journal."""


def write_report(
    folder: Path, evaluation: Evaluation, journal: list[dict[str, Any]], train: dict[str, Any]
) -> Path:
    """Write `report.json` and `report.html` into a folder and return the page's path.

    Args:
        folder: created if missing.
        evaluation: evaluation of the checkpoint.
        journal: rows of its run's journal; may be empty.
        train: summary of the training; keys may be missing, and are None if not applicable.
    """
    report = evaluation.report | {"train": train}
    if evaluation.lowlevel is not None:
        report["lowlevel"] = evaluation.lowlevel.report
    if evaluation.reconstructions is not None:
        report["pictures"] = evaluation.reconstructions.report
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
    environment.filters |= {
        "percent": percent,
        "duration": _duration,
        "three_decimals": three_decimals,
    }
    config, reconstructions = report["config"], evaluation.reconstructions
    rows = _rows(report["retrieval"]) if "retrieval" in report else {}
    return environment.get_template("report.html.j2").render(
        report=report,
        rows=rows,
        measures=MEASURES,
        bars={direction: _bars(rows, direction) for direction in DIRECTIONS if rows},
        curves=_curves(journal, config),
        mixco_epochs=_mixco_epochs(config),
        examples=evaluation.examples,
        pictures={n: thumbnail_uri(open_rgb(data)) for n, data in evaluation.pictures.items()},
        lowlevel_rows=LOWLEVEL_ROWS,
        lowlevel_examples=_lowlevel_examples(evaluation.lowlevel),
        reconstructions=None if reconstructions is None else pictures_section(reconstructions),
        settings=paths(config),
    )


def _template(name: str) -> str:
    return resources.files("mindeye_dist.reports").joinpath("templates", name).read_text("utf-8")


def _rows(retrieval: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return each row's scores by its label; chance, without intervals, is the last row."""
    others = {name: row for name, row in retrieval.items() if isinstance(row, dict)}
    rows = {label: others.pop(name) for name, label in RETRIEVAL_ROWS.items() if name in others}
    pool = retrieval["pool"]
    chance = {"top1": retrieval["chance"], "top1_ci": None}
    chance |= {"top5": min(1, 5 / pool), "median_rank": (pool + 1) / 2}
    keys = [direction + suffix for direction in DIRECTIONS for suffix in MEASURES.values()]
    return rows | others | {"Chance": dict.fromkeys(keys, chance)}


def _bars(rows: dict[str, dict[str, Any]], direction: str) -> Markup:
    """Plot every row's top-1 with its interval: raw as a wide bar, centred as a thin one below."""
    raw, centred = (direction + suffix for suffix in MEASURES.values())
    scores = [score for row in rows.values() for score in row.values()]
    return bars(
        {label: (row[raw]["top1"], row[raw]["top1_ci"]) for label, row in rows.items()},
        f"Top-1 {direction.replace('_', ' ')}",
        limit=max(max(score["top1_ci"] or [score["top1"]]) for score in scores),
        thin=[row[centred]["top1"] for row in rows.values()],
    )


def _curves(journal: list[dict[str, Any]], config: dict[str, Any]) -> dict[str, Markup | None]:
    """Plot the journal over epochs; a plot without rows in the journal is None."""
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
        axes.plot(*_average_bins(points).T, color=INKS[ink], label=name, marker=marker)
    if 0 < (switch := _mixco_epochs(config)) < config["training"]["epochs"]:
        axes.axvline(switch, color=INKS["faint"], linestyle="--", linewidth=1, zorder=0)
    if legend:
        axes.legend(frameon=False)
    axes.ticklabel_format(axis="y", scilimits=(-3, 4))
    axes.spines[["top", "right"]].set_visible(False)
    ends = ", ".join(f"{name} ends at {points[-1, 1]:.4g}" for name, points in lines.items())
    return svg(figure, f"{title} over epochs: {ends}")


def _average_bins(points: np.ndarray) -> np.ndarray:
    """Return at most CURVE_POINTS points, each the mean of a bin of neighbours."""
    parts = np.array_split(points, min(len(points), CURVE_POINTS))
    return np.array([part.mean(axis=0) for part in parts])


def _mixco_epochs(config: dict[str, Any]) -> int:
    if config["pipeline"] == "lowlevel":
        return 0
    return mixco_epochs(config["loss"]["mixco_fraction"], config["training"]["epochs"])


def _lowlevel_examples(lowlevel: LowLevelResult | None) -> list[list[str]]:
    """Return data URIs of each example's pictures: seen, predicted, and by perfect latents."""
    return [
        [
            thumbnail_uri(open_rgb(seen)),
            *(thumbnail_uri(from_unit(rgb)) for rgb in decoded),
        ]
        for seen, *decoded in (lowlevel.examples if lowlevel else ())
    ]


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
