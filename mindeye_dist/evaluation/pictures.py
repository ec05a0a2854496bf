"""Evaluate pictures: draw them for brains of the test split, and score them beside their controls.

The published scores (Scotti et al. 2023, section 4.2) for every row of picture_rows.py; on rendered
scenes also how often object, colour and place are right, which is known there.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from mindeye_dist.decoding.pools.faiss_pool import Pool
from mindeye_dist.decoding.reconstructor import Reconstructions, Reconstructor
from mindeye_dist.errors import DataError, InputError
from mindeye_dist.evaluation.controls import Brains, Row, drawn_by, kept, picture_rows, shown
from mindeye_dist.evaluation.data import EvaluationData
from mindeye_dist.evaluation.picture_scores import METRICS, PictureJudge
from mindeye_dist.evaluation.results import PictureExample, Reconstructed
from mindeye_dist.evaluation.scene_factors import (
    FACTORS,
    FactorReader,
    factor_scores,
    fit_factor_reader,
)
from mindeye_dist.frozen.efficientnet import EfficientNetLite0
from mindeye_dist.frozen.metric_networks import FeatureNetwork
from mindeye_dist.pictures import as_unit, decode
from mindeye_dist.randomness import numpy_generator
from mindeye_dist.simulation.scene_objects import DRAWINGS
from mindeye_dist.simulation.scenes import COLORS, PLACES

Made = Callable[[Sequence[str]], Iterable[Reconstructions]]
"""From keys to reconstructions that were made before, some at a time, in the keys' order."""
SORTED_BY = "lite0_two_way"
READER_PICTURES = 1000
"""Training pictures that the judge of scenes learns from."""


@dataclass(frozen=True, kw_only=True)
class PictureSettings:
    """Which brains are reconstructed, and how thoroughly the controls are.

    Attributes:
        pictures: of the test split, drawn by the seed; all of them where there are fewer.
        control_candidates: of the rows that are drawn for comparison alone.
        seed: of that choice, of the shuffle and of the intervals.
    """

    pictures: int = 100
    control_candidates: int = 4
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Judges:
    """What pictures are judged by.

    Attributes:
        networks: by whose features, each for its metric.
        gaps: why a metric is missing, by its key.
        encoder: reads the factors of scenes; without it they are not read.
        factors: the truth about rendered scenes, by sample key; empty for other pictures.
        captions: by sample key, where there are any.
        antialias: filter when pictures are made smaller; the published scores are not filtered.
    """

    networks: Sequence[FeatureNetwork]
    gaps: Mapping[str, str]
    encoder: EfficientNetLite0 | None
    factors: Mapping[str, Mapping[str, str]]
    captions: Mapping[str, str]
    antialias: bool = False


def evaluate_pictures(
    reconstructor: Reconstructor,
    data: EvaluationData,
    judges: Judges,
    settings: PictureSettings,
    pool: Pool | None = None,
    made: Made | None = None,
) -> Reconstructed:
    """Return the scores of pictures that are drawn for brains of the test split, and examples.

    With a pool, its nearest picture to each brain is scored beside them. The model's own pictures
    may be `made` before by such a reconstructor; the others are drawn.

    Raises:
        DataError: a picture cannot be read.
        InputError: there are fewer than two pictures; voxels or tokens that are not finite.
    """
    train, test = data.splits["train"], data.splits["test"]
    order = numpy_generator(settings.seed, "pictures").permutation(len(test))
    numbers = np.sort(order[: settings.pictures]).tolist()
    brains = Brains(train=train, test=test, numbers=numbers)
    files = test.pictures(numbers)
    seen = as_unit(pixels(files, numbers, "test"))
    if len(numbers) < 2:
        raise InputError(f"got {len(numbers)} test pictures, expected at least 2 to compare")
    # Before anything is drawn, which takes long: what the judges cannot take is said at once.
    judge = PictureJudge(seen, judges.networks, gaps=judges.gaps, antialias=judges.antialias)
    reader = _factor_reader(brains, judges, reconstructor.generator.side)
    few = settings.control_candidates
    model = kept(made(brains.keys) if made else drawn_by(reconstructor, brains), few)
    rows = picture_rows(reconstructor, brains, model, few, settings.seed, pool)
    scores = {
        name: judge.scores(as_unit(row.pictures), settings.seed) for name, row in rows.items()
    }
    report = _about(reconstructor, settings, len(numbers), len(test))
    report |= _score_table(rows, scores)
    truths: list[dict[str, tuple[str, str]]] = []
    report["factors"] = {}
    if reader is not None:
        known = [judges.factors[key] for key in brains.keys]
        report["factors"], truths = _factors(reader, known, rows, seen, settings.seed)
    told = scores["model"][SORTED_BY].get("each")
    if told is None:
        report["sorted_by"] = "similarity to the projector's output"
        told = model.scores.max(axis=1)
    examples = [
        PictureExample(
            number=number,
            seen=files[place],
            lowlevel=None if model.lowlevel is None else shown(model.lowlevel[place][None])[0],
            candidates=model.shown[place],
            scores=model.scores[place],
            chosen=int(model.scores[place].argmax()),
            score=float(told[place]),
            caption=judges.captions.get(key, ""),
            truths=truths[place] if truths else {},
        )
        for place, (number, key) in enumerate(zip(numbers, brains.keys, strict=True))
    ]
    return Reconstructed(report=report, examples=examples)


def pixels(
    files: Sequence[bytes], numbers: Sequence[int], split: str
) -> UInt8[np.ndarray, "pictures height width 3"]:
    """Return picture files of one size decoded.

    Raises:
        DataError: one cannot be read, or is of another size than the first.
    """
    rgb = [decode(f, f"{split} picture {n}") for f, n in zip(files, numbers, strict=True)]
    for number, one in zip(numbers, rgb, strict=True):
        if one.shape != rgb[0].shape:
            raise DataError(
                f"{split} picture {number}: is {one.shape[1]} x {one.shape[0]} pixels, expected "
                f"{rgb[0].shape[1]} x {rgb[0].shape[0]} as the others"
            )
    return np.stack(rgb)


def _about(
    reconstructor: Reconstructor, settings: PictureSettings, count: int, available: int
) -> dict[str, Any]:
    generator, config = reconstructor.generator, reconstructor.config
    return {
        "generator": {
            "name": generator.name,
            "digest": generator.digest,
            "side": generator.side,
            "note": str(getattr(generator, "about", {}).get("pictures", "")),
        },
        "encoder": reconstructor.encoder.name,
        "candidates": config.candidates,
        "strength": config.strength if reconstructor.lowlevel else None,
        "seeds": [config.seed],
        "shared_noise": config.shared_noise,
        "averaged_samples": config.averaged_samples,
        "control_candidates": min(settings.control_candidates, config.candidates),
        "pool": count,
        "of": available,
        "sorted_by": METRICS[SORTED_BY].label,
    }


def _score_table(
    rows: Mapping[str, Row], scores: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    first = scores["model"]
    return {
        "metrics": {
            key: {
                "label": metric.label,
                "chance": metric.chance,
                "perfect": metric.perfect,
                "better": metric.better,
                "gap": first[key].get("gap", ""),
            }
            for key, metric in METRICS.items()
        },
        "rows": {
            name: {
                "label": row.label,
                "note": row.note,
                "scores": {
                    key: {what: values[what] for what in ("mean", "ci", "undefined")}
                    for key, values in scores[name].items()
                    if "gap" not in values
                },
            }
            for name, row in rows.items()
        },
    }


def _factor_reader(brains: Brains, judges: Judges, side: int) -> FactorReader | None:
    """Return what reads the factors of scenes; None where they are not known.

    Raises:
        DataError: there are too few scenes to learn from.
    """
    train = brains.train
    numbers = list(range(min(READER_PICTURES, len(train))))
    keys = [train.samples[n].key for n in numbers]
    if judges.encoder is None or not {*keys, *brains.keys} <= judges.factors.keys():
        return None
    pictures = as_unit(pixels(train.pictures(numbers), numbers, "training"))
    try:
        factors = [judges.factors[key] for key in keys]
        return fit_factor_reader(judges.encoder, pictures, factors, side=side)
    except ValueError as error:
        raise DataError(f"reading factors off {len(numbers)} training scenes: {error}") from error


def _factors(
    reader: FactorReader,
    truth: Sequence[Mapping[str, str]],
    rows: Mapping[str, Row],
    seen: Float32[np.ndarray, "pictures 3 side side"],
    seed: int,
) -> tuple[dict[str, Any], list[dict[str, tuple[str, str]]]]:
    """Return the table of factors, and true and read factors of the model's pictures."""
    read = {name: reader(as_unit(row.pictures)) for name, row in rows.items()}
    chance = {"kind": 1 / len(DRAWINGS), "color": 1 / len(COLORS), "place": 1 / len(PLACES)}
    shares = {name: factor_scores(labels, truth, seed) for name, labels in read.items()}
    # Not one shuffle, as for the scores: every one.
    shares["shuffled"] = factor_scores(read["model"], truth, seed, shuffled=True)
    table = {
        "chance": chance | {"all": float(np.prod(list(chance.values())))},
        "rows": shares,
        "ceiling": factor_scores(reader(seen), truth, seed),
    }
    both = [
        {factor: (one[factor], read["model"][factor][place]) for factor in FACTORS}
        for place, one in enumerate(truth)
    ]
    return table, both
