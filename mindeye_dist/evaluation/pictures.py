"""Evaluation of reconstructed pictures: brains of the test split -> scores beside controls.

In: a Reconstructor and the splits. Out: the published scores for every row of controls.py; on
rendered scenes, whose truth is known, also the accuracy of object, colour and place. Scotti et al.
(2023), section 4.2.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from mindeye_dist.decoding.pools.faiss_pool import Pool
from mindeye_dist.decoding.reconstructor import Reconstructions, Reconstructor
from mindeye_dist.errors import DataError, InputError
from mindeye_dist.evaluation.controls import (
    BrainSelection,
    ModelPictures,
    PictureRow,
    collect_pictures,
    picture_rows,
    reconstruct_brains,
    shrink_for_page,
)
from mindeye_dist.evaluation.data import EvaluationData
from mindeye_dist.evaluation.picture_scores import METRICS, PictureJudge
from mindeye_dist.evaluation.results import PictureExample, ReconstructionResult
from mindeye_dist.evaluation.scene_factors import (
    FACTORS,
    FactorClassifier,
    factor_scores,
    fit_factor_classifier,
)
from mindeye_dist.frozen.efficientnet import EfficientNetLite0
from mindeye_dist.frozen.metric_networks import FeatureNetwork
from mindeye_dist.pictures import as_unit, decode
from mindeye_dist.randomness import numpy_generator
from mindeye_dist.simulation.scene_objects import DRAWINGS
from mindeye_dist.simulation.scenes import COLORS, PLACES

StoredReconstructions = Callable[[Sequence[str]], Iterable[Reconstructions]]
"""Reader of reconstructions made earlier: keys -> parts, in the keys' order."""
SORTED_BY = "lite0_two_way"
"""Metric that sorts the page's examples."""
CLASSIFIER_PICTURES = 1000
"""Number of training pictures that the classifier of scenes' factors is fitted to."""


@dataclass(frozen=True, kw_only=True)
class PictureSettings:
    """Extent of an evaluation of pictures.

    Attributes:
        pictures: number of test pictures, chosen at random; all of them if there are fewer.
        control_candidates: number of candidates per brain in the controls.
        seed: seed of that choice, of the shuffle and of the intervals.
    """

    pictures: int = 100
    control_candidates: int = 4
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Judges:
    """Networks that score pictures, and known facts of the seen pictures.

    Attributes:
        networks: networks of the metrics.
        gaps: reason why a metric is missing, by its key.
        encoder: network of the factors' classifier; without one the factors are not scored.
        factors: true factors of rendered scenes by sample key; empty for other pictures.
        captions: captions by sample key; may be empty.
        antialias: antialiased downscaling; the published scores have none.
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
    stored: StoredReconstructions | None = None,
) -> ReconstructionResult:
    """Score the model's pictures of brains of the test split, and their controls.

    Args:
        reconstructor: reconstructor to evaluate.
        data: splits of its subject.
        judges: networks and known facts that pictures are scored with.
        settings: number of pictures and of the controls' candidates, and the seed.
        pool: pool whose nearest pictures are scored as another control.
        stored: pictures that this reconstructor made earlier, to score as the model's.

    Raises:
        DataError: a picture cannot be read.
        InputError: there are fewer than two pictures; voxels, tokens or features are not finite.
    """
    train, test = data.splits["train"], data.splits["test"]
    order = numpy_generator(settings.seed, "pictures").permutation(len(test))
    numbers = np.sort(order[: settings.pictures]).tolist()
    brains = BrainSelection(train=train, test=test, numbers=numbers)
    if len(numbers) < 2:
        raise InputError(f"got {len(numbers)} test pictures, expected at least 2 to compare")
    files = test.pictures(numbers)
    seen = as_unit(decode_equal_sizes(files, numbers, "test"))
    # Generation takes long: errors of the networks and the classifier come before it.
    judge = PictureJudge(seen, judges.networks, gaps=judges.gaps, antialias=judges.antialias)
    classifier = _factor_classifier(brains, judges, reconstructor.generator.side)
    few = settings.control_candidates
    parts = stored(brains.keys) if stored else reconstruct_brains(reconstructor, brains)
    model = collect_pictures(parts, few)
    rows = picture_rows(reconstructor, brains, model, few, settings.seed, pool)
    scores = {
        name: judge.scores(as_unit(row.pictures), settings.seed) for name, row in rows.items()
    }
    report = _settings_report(reconstructor, settings, len(numbers), len(test))
    report |= _score_report(rows, scores)
    truths: list[dict[str, tuple[str, str]]] = [{} for _ in numbers]
    report["factors"] = {}
    if classifier is not None:
        true = [judges.factors[key] for key in brains.keys]
        report["factors"], truths = _score_factors(classifier, true, rows, seen, settings.seed)
    sort_scores = scores["model"][SORTED_BY].get("each")
    if sort_scores is None:
        report["sorted_by"] = "similarity to the projector's output"
        sort_scores = model.scores.max(axis=1).tolist()
    examples = _examples(brains, files, model, sort_scores, truths, judges.captions)
    return ReconstructionResult(report=report, examples=examples)


def _examples(
    brains: BrainSelection,
    files: Sequence[bytes],
    model: ModelPictures,
    sort_scores: Sequence[float],
    truths: Sequence[dict[str, tuple[str, str]]],
    captions: Mapping[str, str],
) -> list[PictureExample]:
    return [
        PictureExample(
            number=number,
            seen=files[brain],
            lowlevel=None
            if model.lowlevel is None
            else shrink_for_page(model.lowlevel[brain][None])[0],
            candidates=model.page_candidates[brain],
            scores=model.scores[brain],
            chosen=int(model.scores[brain].argmax()),
            score=float(sort_scores[brain]),
            caption=captions.get(key, ""),
            truths=truths[brain],
        )
        for brain, (number, key) in enumerate(zip(brains.numbers, brains.keys, strict=True))
    ]


def decode_equal_sizes(
    files: Sequence[bytes], numbers: Sequence[int], split: str
) -> UInt8[np.ndarray, "pictures height width 3"]:
    """Decode picture files that all have the same size.

    Raises:
        DataError: a file cannot be read, or its size differs from the first one's.
    """
    pictures = [decode(f, f"{split} picture {n}") for f, n in zip(files, numbers, strict=True)]
    height, width = pictures[0].shape[:2]
    for number, rgb in zip(numbers, pictures, strict=True):
        if rgb.shape[:2] != (height, width):
            raise DataError(
                f"{split} picture {number}: is {rgb.shape[1]} x {rgb.shape[0]} pixels, expected "
                f"{width} x {height} as the others"
            )
    return np.stack(pictures)


def _settings_report(
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


def _score_report(
    rows: Mapping[str, PictureRow], scores: Mapping[str, Mapping[str, Any]]
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
                    key: {part: values[part] for part in ("mean", "ci", "undefined")}
                    for key, values in scores[name].items()
                    if "gap" not in values
                },
            }
            for name, row in rows.items()
        },
    }


def _factor_classifier(
    brains: BrainSelection, judges: Judges, side: int
) -> FactorClassifier | None:
    """Fit the classifier of scenes' factors; return None if the true factors are unknown.

    Raises:
        DataError: there are too few training scenes.
    """
    train = brains.train
    numbers = list(range(min(CLASSIFIER_PICTURES, len(train))))
    keys = [train.samples[n].key for n in numbers]
    if judges.encoder is None or not {*keys, *brains.keys} <= judges.factors.keys():
        return None
    pictures = as_unit(decode_equal_sizes(train.pictures(numbers), numbers, "training"))
    try:
        factors = [judges.factors[key] for key in keys]
        return fit_factor_classifier(judges.encoder, pictures, factors, side=side)
    except ValueError as error:
        raise DataError(f"reading factors off {len(numbers)} training scenes: {error}") from error


def _score_factors(
    classifier: FactorClassifier,
    truth: Sequence[Mapping[str, str]],
    rows: Mapping[str, PictureRow],
    seen: Float32[np.ndarray, "pictures 3 side side"],
    seed: int,
) -> tuple[dict[str, Any], list[dict[str, tuple[str, str]]]]:
    """Return the report's table, and the true and read label of each of the model's pictures."""
    read = {name: classifier(as_unit(row.pictures)) for name, row in rows.items()}
    chance = {"kind": 1 / len(DRAWINGS), "color": 1 / len(COLORS), "place": 1 / len(PLACES)}
    shares = {name: factor_scores(labels, truth, seed) for name, labels in read.items()}
    # The mean over all shuffles; the scores above are from a single one.
    shares["shuffled"] = factor_scores(read["model"], truth, seed, shuffled=True)
    table = {
        "chance": chance | {"all": float(np.prod(list(chance.values())))},
        "rows": shares,
        "ceiling": factor_scores(classifier(seen), truth, seed),
    }
    both = [
        {factor: (true[factor], read["model"][factor][number]) for factor in FACTORS}
        for number, true in enumerate(truth)
    ]
    return table, both
