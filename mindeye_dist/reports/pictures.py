"""The report's pictures: what was drawn from the brain, its scores and controls, for the page.

Every score stands beside what frames it (Scotti et al. 2023, section 4.2, and what the field leaves
out): chance, the generator on the true tokens, shuffled and mean brains, a training picture shown
instead. The words are made from the numbers: where two intervals overlap, the page claims nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8
from markupsafe import Markup
from PIL import Image

from mindeye_dist.evaluation.results import PictureExample, Reconstructed
from mindeye_dist.randomness import numpy_generator
from mindeye_dist.reports.plots import THUMBNAIL_SIDE, bars, jpeg_uri, opened, thumbnail_uri
from mindeye_dist.reports.words import FACTORS, factor_words, pixel_words, score_words

GROUP_SIZE = 8
RANDOM_PAGE = 12
STRIP_COLUMNS = 8
STRIP_SIDE = 56
STRIP_QUALITY = 75

COMPARABLE = 0.01
"""Least share of shuffled brains that another is called a multiple of."""
PLOTTED = ("model", "true_tokens", "best_training_picture", "mean_brain", "shuffled")
"""Rows of the factors' plots."""

EXPLAINED = {
    "true_tokens": "The generator given the true tokens of the seen picture in place of the "
    "brain's: as good as this generator can draw, if its tokens are right.",
    "no_lowlevel": "Drawn from noise, without the low-level picture to start from.",
    "lowlevel_only": "The low-level picture itself, without any generator.",
    "single_trial": "Drawn from one response to each picture instead of the mean of its repeats.",
    "best_training_picture": "No drawing: a picture of the training split stands in for the "
    "reconstruction, the one whose tokens fit the brain best. What does not beat it is looking "
    "up, not reconstructing.",
    "mean_brain": "The mean brain response, given for every picture: what the generator and the "
    "average picture score by themselves.",
    "shuffled": "The model's pictures, dealt out to the wrong brains: chance, plus what all "
    "pictures have in common.",
    "pool": "No drawing: the picture of a large pool that fits the brain best.",
}
"""What a row means, by its name; rows that are not named here have only their own note."""


@dataclass(frozen=True)
class Strip:
    """All candidates in one picture: its data URI, its cells, and the cell of the chosen one."""

    uri: str
    columns: int
    rows: int
    column: int
    row: int


@dataclass(frozen=True)
class Card:
    """What the page shows of an example; pictures are data URIs, `place` 1 is the best score."""

    example: PictureExample
    place: int
    seen: str
    lowlevel: str | None
    chosen: str
    strip: Strip | None


def pictures_page(made: Reconstructed) -> dict[str, Any]:
    """Return what the page's template needs beside the report itself."""
    report = made.report
    ranked = sorted(made.examples, key=lambda example: (-example.score, example.number))
    cards = [_card(example, place) for place, example in enumerate(ranked, 1)]
    return {
        "lead": [*_how_drawn(report), *score_words(report), *pixel_words(report)],
        "factor_words": factor_words(report),
        "measured": {key: m for key, m in report["metrics"].items() if not m["gap"]},
        "gaps": {m["label"]: m["gap"] for m in report["metrics"].values() if m["gap"]},
        "undefined": _undefined(report),
        "factors": _factor_table(report["factors"]),
        "bars": _factor_bars(report),
        "names": FACTORS,
        "explained": EXPLAINED,
        "groups": _groups(cards),
        "others": _others(cards),
        "random": _random_page(cards),
        "total": len(cards),
    }


def _how_drawn(report: dict[str, Any]) -> list[str]:
    every = "each" if report["pool"] == report["of"] else f"{report['pool']:,}"
    many = report["candidates"] > 1
    drawn = f"{report['candidates']} candidates" if many else "one picture"
    sentences = [
        f"For {every} of the {report['of']:,} test pictures the generator drew {drawn} from brain "
        "activity alone."
    ]
    if many:
        sentences.append(
            "The one shown is the one nearest to the projector's output: the choice never sees the "
            "true picture."
        )
    return sentences


def _undefined(report: dict[str, Any]) -> list[str]:
    """Return a phrase for each score that is undefined for some pictures."""
    return [
        f"{report['metrics'][key]['label']} of {row['label']}: {score['undefined']}"
        for row in report["rows"].values()
        for key, score in row["scores"].items()
        if score["undefined"]
    ]


def _factor_table(factors: dict[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return each row's shares by factor with their ratio to shuffled brains.

    `times` is the ratio and `times_low` what is left of it where the two intervals are nearest to
    each other; both are None where shuffled brains are (almost) never right.
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
    """Draw, for each factor, how often it is right by row, with the ceiling and chance."""
    factors = report["factors"]
    shown = [name for name in PLOTTED if name in factors.get("rows", {})]
    plots = {}
    for factor in factors["rows"][shown[0]] if shown else ():
        rows: dict[str, tuple[float, Sequence[float] | None]] = {}
        for name in shown:
            share = factors["rows"][name].get(factor)
            rows |= {report["rows"][name]["label"]: (share["mean"], share["ci"])} if share else {}
        if factor in factors["ceiling"]:
            ceiling = factors["ceiling"][factor]
            rows["Seen pictures"] = (ceiling["mean"], ceiling["ci"])
        if factor in factors["chance"]:
            rows["Chance"] = (factors["chance"][factor], None)
        plots[factor] = bars(rows, f"Right {FACTORS.get(factor, factor)}", limit=1.0)
    return plots


def _card(example: PictureExample, place: int) -> Card:
    return Card(
        example=example,
        place=place,
        seen=thumbnail_uri(opened(example.seen)),
        lowlevel=None if example.lowlevel is None else _thumbnail(example.lowlevel),
        chosen=_thumbnail(example.candidates[example.chosen]),
        strip=_strip(example) if len(example.candidates) > 1 else None,
    )


def _thumbnail(rgb: UInt8[np.ndarray, "height width 3"]) -> str:
    """Return a drawn picture at the thumbnail's size, scaled up smoothly where it is smaller."""
    return jpeg_uri(_resized(rgb, THUMBNAIL_SIDE))


def _resized(rgb: UInt8[np.ndarray, "height width 3"], side: int) -> Image.Image:
    return Image.fromarray(rgb).resize((side, side), Image.Resampling.LANCZOS)


def _strip(example: PictureExample) -> Strip:
    """Lay all candidates out in rows of nearly equal length, in one picture."""
    count = len(example.candidates)
    rows = -(-count // STRIP_COLUMNS)
    columns = -(-count // rows)
    strip = Image.new("RGB", (columns * STRIP_SIDE, rows * STRIP_SIDE), (128, 128, 128))
    for n, rgb in enumerate(example.candidates):
        row, column = divmod(n, columns)
        strip.paste(_resized(rgb, STRIP_SIDE), (column * STRIP_SIDE, row * STRIP_SIDE))
    row, column = divmod(example.chosen, columns)
    return Strip(jpeg_uri(strip, STRIP_QUALITY), columns, rows, column, row)


def _groups(cards: list[Card]) -> Mapping[str, list[Card]]:
    """Return the best, the middle and the worst by title; few cards are one group."""
    if len(cards) <= 3 * GROUP_SIZE:
        return {"From best to worst": cards}
    start = (len(cards) - GROUP_SIZE) // 2
    return {
        f"The {GROUP_SIZE} best": cards[:GROUP_SIZE],
        f"The {GROUP_SIZE} in the middle": cards[start : start + GROUP_SIZE],
        f"The {GROUP_SIZE} worst": cards[-GROUP_SIZE:],
    }


def _others(cards: list[Card]) -> list[Card]:
    shown = {card.place for group in _groups(cards).values() for card in group}
    return [card for card in cards if card.place not in shown]


def _random_page(cards: list[Card]) -> list[Card]:
    """Draw cards by their pictures' numbers, so that no score has a say in which are drawn."""
    by_number = sorted(cards, key=lambda card: card.example.number)
    order = numpy_generator(0, "random page").permutation(len(cards))[:RANDOM_PAGE]
    return [by_number[n] for n in order]
