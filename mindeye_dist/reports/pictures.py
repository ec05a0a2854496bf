"""The page's section on reconstructions: scores, controls and examples -> template variables.

Every score stands beside its references: chance, the generator on the true tokens, shuffled and
mean brains, the best training picture. Scotti et al. (2023), section 4.2.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8
from markupsafe import Markup
from PIL import Image

from mindeye_dist.evaluation.results import PictureExample, ReconstructionResult
from mindeye_dist.randomness import numpy_generator
from mindeye_dist.reports.plots import PREVIEW_SIDE, bars, jpeg_uri, open_rgb, thumbnail_uri
from mindeye_dist.reports.words import (
    FACTOR_NAMES,
    factor_sentences,
    pixel_sentences,
    score_sentences,
)

GROUP_SIZE = 8
"""Number of examples among the best, in the middle and among the worst."""
RANDOM_EXAMPLES = 12
"""Number of examples that are chosen at random."""
STRIP_COLUMNS = 8
STRIP_SIDE = 56
"""Side of a candidate in the strip of all candidates, in pixels."""
STRIP_QUALITY = 75
COMPARABLE = 0.01
"""Smallest share of shuffled brains that ratios are given for."""
PLOTTED = ("model", "true_tokens", "best_training_picture", "mean_brain", "shuffled")
"""Names of the rows in the factors' plots."""

EXPLAINED = {
    "true_tokens": "The generator, given the true tokens of the seen picture instead of those "
    "predicted from the brain: the upper bound of this generator.",
    "no_lowlevel": "Generated from noise alone, without the low-level picture to start from.",
    "lowlevel_only": "The low-level picture itself, without the generator.",
    "single_trial": "From one response to each picture instead of the mean of its repeats.",
    "best_training_picture": "Nothing is generated: the picture of the training split whose tokens "
    "fit the brain best. A model that does not beat it looks pictures up instead of "
    "reconstructing them.",
    "mean_brain": "The mean response of all training pictures, used for every picture: the score "
    "of the generator without any information from the brain.",
    "shuffled": "The model's pictures, assigned to the wrong brains: chance, plus whatever all "
    "pictures have in common.",
    "pool": "Nothing is generated: the picture of a large pool that fits the brain best.",
}
"""Explanations of rows by name; other rows have only their own note."""


@dataclass(frozen=True)
class CandidateStrip:
    """All candidates of a brain in one picture: data URI, size in cells, cell of the chosen one."""

    uri: str
    columns: int
    rows: int
    column: int
    row: int


@dataclass(frozen=True)
class Card:
    """One example on the page; pictures are data URIs, rank 1 has the best score."""

    example: PictureExample
    rank: int
    seen: str
    lowlevel: str | None
    chosen: str
    strip: CandidateStrip | None


def pictures_section(result: ReconstructionResult) -> dict[str, Any]:
    """Return the template's variables, besides the report itself."""
    report = result.report
    ranked = sorted(result.examples, key=lambda example: (-example.score, example.number))
    cards = [_card(example, rank) for rank, example in enumerate(ranked, 1)]
    return {
        "lead": [*_method_sentences(report), *score_sentences(report), *pixel_sentences(report)],
        "factor_sentences": factor_sentences(report),
        "measured": {key: m for key, m in report["metrics"].items() if not m["gap"]},
        "gaps": {m["label"]: m["gap"] for m in report["metrics"].values() if m["gap"]},
        "undefined": _undefined(report),
        "factors": _factor_table(report["factors"]),
        "bars": _factor_bars(report),
        "names": FACTOR_NAMES,
        "explained": EXPLAINED,
        "groups": _groups(cards),
        "others": _others(cards),
        "random": _random_cards(cards),
        "total": len(cards),
    }


def _method_sentences(report: dict[str, Any]) -> list[str]:
    every = "each" if report["pool"] == report["of"] else f"{report['pool']:,}"
    many = report["candidates"] > 1
    generated = f"{report['candidates']} candidates" if many else "one picture"
    sentences = [
        f"For {every} of the {report['of']:,} test pictures the generator drew {generated} from "
        "brain activity alone."
    ]
    if many:
        sentences.append(
            "The chosen one is nearest to the projector's output; the true picture plays no part "
            "in the choice."
        )
    return sentences


def _undefined(report: dict[str, Any]) -> list[str]:
    """Return a phrase for each score with undefined pictures, with their number."""
    return [
        f"{report['metrics'][key]['label']} of {row['label']}: {score['undefined']}"
        for row in report["rows"].values()
        for key, score in row["scores"].items()
        if score["undefined"]
    ]


def _factor_table(factors: dict[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return each row's shares by factor, with their ratio to those of shuffled brains.

    `times` is the ratio of the means, `times_low` that of the interval's lower end to the upper end
    of shuffled brains'; both are None where the share of shuffled brains is below `COMPARABLE`.
    """
    table: dict[str, dict[str, dict[str, Any]]] = {}
    shuffled = factors.get("rows", {}).get("shuffled", {})
    for row, shares in factors.get("rows", {}).items():
        table[row] = {}
        for name, share in shares.items():
            control = shuffled.get(name, {"mean": 0, "ci": [0, 0]})
            mean, high = control["mean"], control["ci"][1]
            compared = row != "shuffled" and mean >= COMPARABLE
            table[row][name] = share | {
                "times": share["mean"] / mean if compared else None,
                "times_low": share["ci"][0] / high if compared and high > 0 else None,
            }
    return table


def _factor_bars(report: dict[str, Any]) -> dict[str, Markup]:
    """Plot each factor's accuracy by row, with the ceiling and chance."""
    factors = report["factors"]
    plotted = [name for name in PLOTTED if name in factors.get("rows", {})]
    plots = {}
    for factor in factors["rows"][plotted[0]] if plotted else ():
        rows: dict[str, tuple[float, Sequence[float] | None]] = {}
        for name in plotted:
            share = factors["rows"][name].get(factor)
            rows |= {report["rows"][name]["label"]: (share["mean"], share["ci"])} if share else {}
        if factor in factors["ceiling"]:
            ceiling = factors["ceiling"][factor]
            rows["Seen pictures"] = (ceiling["mean"], ceiling["ci"])
        if factor in factors["chance"]:
            rows["Chance"] = (factors["chance"][factor], None)
        plots[factor] = bars(rows, f"Right {FACTOR_NAMES.get(factor, factor)}", limit=1.0)
    return plots


def _card(example: PictureExample, rank: int) -> Card:
    return Card(
        example=example,
        rank=rank,
        seen=thumbnail_uri(open_rgb(example.seen)),
        lowlevel=None if example.lowlevel is None else _thumbnail(example.lowlevel),
        chosen=_thumbnail(example.candidates[example.chosen]),
        strip=_strip(example) if len(example.candidates) > 1 else None,
    )


def _thumbnail(rgb: UInt8[np.ndarray, "height width 3"]) -> str:
    """Return a picture scaled to `PREVIEW_SIDE`, also if it is smaller, as a data URI."""
    return jpeg_uri(_resize(rgb, PREVIEW_SIDE))


def _resize(rgb: UInt8[np.ndarray, "height width 3"], side: int) -> Image.Image:
    return Image.fromarray(rgb).resize((side, side), Image.Resampling.LANCZOS)


def _strip(example: PictureExample) -> CandidateStrip:
    """Join all candidates, in rows of nearly equal length, into one picture."""
    count = len(example.candidates)
    rows = -(-count // STRIP_COLUMNS)
    columns = -(-count // rows)
    strip = Image.new("RGB", (columns * STRIP_SIDE, rows * STRIP_SIDE), (128, 128, 128))
    for n, rgb in enumerate(example.candidates):
        row, column = divmod(n, columns)
        strip.paste(_resize(rgb, STRIP_SIDE), (column * STRIP_SIDE, row * STRIP_SIDE))
    row, column = divmod(example.chosen, columns)
    return CandidateStrip(jpeg_uri(strip, STRIP_QUALITY), columns, rows, column, row)


def _groups(cards: list[Card]) -> Mapping[str, list[Card]]:
    """Group the best, middle and worst cards by title; a few cards form a single group."""
    if len(cards) <= 3 * GROUP_SIZE:
        return {"From best to worst": cards}
    start = (len(cards) - GROUP_SIZE) // 2
    return {
        f"The {GROUP_SIZE} best": cards[:GROUP_SIZE],
        f"The {GROUP_SIZE} in the middle": cards[start : start + GROUP_SIZE],
        f"The {GROUP_SIZE} worst": cards[-GROUP_SIZE:],
    }


def _others(cards: list[Card]) -> list[Card]:
    grouped = {card.rank for group in _groups(cards).values() for card in group}
    return [card for card in cards if card.rank not in grouped]


def _random_cards(cards: list[Card]) -> list[Card]:
    """Choose cards by their pictures' numbers, so that the choice does not depend on scores."""
    by_number = sorted(cards, key=lambda card: card.example.number)
    order = numpy_generator(0, "random page").permutation(len(cards))[:RANDOM_EXAMPLES]
    return [by_number[n] for n in order]
