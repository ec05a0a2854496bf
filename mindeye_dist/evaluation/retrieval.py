"""Evaluate: a Predictor on the test split -> a report that is JSON.

Retrieval over the whole test pool in both directions, raw and centred, beside what frames it:
chance, a ridge baseline on the same training data, brains shuffled against pictures, and, for a
simulated subject, the best linear decoder and the ideal observer that know the truth. The low-level
pipeline's blurry pictures are compared with the seen ones, beside the same controls. Who calls
opens the data, since targets may be stored or computed.
"""

import hashlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from mindeye_dist.config import DataConfig
from mindeye_dist.data.dataset import Dataset
from mindeye_dist.data.manifest import Subject
from mindeye_dist.decoding.predictor import Predictor
from mindeye_dist.errors import DataError
from mindeye_dist.evaluation.data import EvaluationData, check_data, set_name
from mindeye_dist.evaluation.results import Evaluation, Example
from mindeye_dist.evaluation.ridge import fit_ridge
from mindeye_dist.metrics import (
    DIRECTIONS,
    PUBLISHED_POOL,
    ranks,
    retrieval_in_draws,
    scores,
    similarity,
)
from mindeye_dist.pictures import decode, small
from mindeye_dist.randomness import numpy_generator
from mindeye_dist.shapes import TargetShape
from mindeye_dist.simulation.brain import OptimalDecoder, SimulatedSubject
from mindeye_dist.storage.store import Store
from mindeye_dist.strict import to_dict


def evaluate(
    predictor: Predictor, data: EvaluationData, *, num_examples: int = 12, seed: int = 0
) -> Evaluation:
    """Return the evaluation of a high-level checkpoint on the test split.

    Raises:
        DataError: the data does not fit the checkpoint (see `check_data`).
    """
    check_data(predictor, data)
    splits, subject = data.splits, data.manifest.subject(predictor.config.data.subject)
    voxels, clip_tokens = splits["test"].averages(), splits["test"].all_targets("clip_tokens")
    images = clip_tokens.reshape(len(clip_tokens), -1)
    brains = predictor.embed(voxels)
    model = similarity(brains, images)
    order = numpy_generator(seed, "shuffled brains").permutation(len(brains))
    rows = {
        "model": _both(brains, images, seed),
        "ridge": _both(_ridge(splits, "clip_tokens", voxels), images, seed),
        "shuffled": _both(brains[order], images, seed),
    }
    if subject.truth and _tuned_to(subject, data.targets):
        truth = _read_truth(splits["test"].store, subject)
        rows |= _ceilings(truth, splits["test"], voxels, clip_tokens, seed)
    examples: dict[str, list[Example]] = {
        direction: _examples(
            model if direction == "brain_to_image" else model.T, num_examples, seed
        )
        for direction in DIRECTIONS
    }
    shown = sorted({n for page in examples.values() for e in page for n in (e.query, *e.matches)})
    retrieval = {"pool": len(brains), "chance": 1 / len(brains), **rows}
    report = _about(predictor, data) | {"retrieval": retrieval}
    if len(brains) >= PUBLISHED_POOL:
        report["retrieval_in_draws"] = {
            "model": retrieval_in_draws(brains, images, PUBLISHED_POOL, seed=seed),
            "shuffled": retrieval_in_draws(brains[order], images, PUBLISHED_POOL, seed=seed),
        }
    pictures = dict(zip(shown, splits["test"].pictures(shown), strict=True))
    return Evaluation(report=report, examples=examples, pictures=pictures)


def _about(predictor: Predictor, data: EvaluationData) -> dict[str, Any]:
    """Return what a report says of checkpoint and data, whatever the pipeline."""
    config, targets = predictor.config, data.targets
    subject = data.manifest.subject(config.data.subject)
    return {
        "checkpoint": str(predictor.path),
        "subject": config.data.subject,
        "num_voxels": subject.num_voxels,
        "simulated": bool(subject.truth),
        "licence": data.manifest.licence,
        "targets": {
            "name": set_name(predictor),
            "encoder": targets.encoder,
            "digest": targets.digest,
        },
        "counts": {name: len(split) for name, split in data.splits.items()},
        "config": to_dict(config),
    }


def _tuned_to(subject: Subject, targets: TargetShape) -> bool:
    """Return whether a simulated brain was made from these targets; the ceilings are for them."""
    simulated = subject.targets.get(DataConfig.targets)
    return simulated is not None and simulated.digest == targets.digest


def _both(
    brains: Float[np.ndarray, "brains features"],
    images: Float[np.ndarray, "images features"],
    seed: int,
) -> dict[str, Any]:
    rows = scores(similarity(brains, images), numpy_generator(seed, "bootstrap"))
    centred = scores(similarity(brains, images, centred=True), numpy_generator(seed, "bootstrap"))
    return rows | {f"{direction}_centred": row for direction, row in centred.items()}


def _ridge(
    splits: Mapping[str, Dataset], kind: str, test_voxels: Float[np.ndarray, "brains voxels"]
) -> Float[np.ndarray, "brains features"]:
    train, val = splits["train"], splits["val"]
    targets = [split.all_targets(kind) for split in (train, val)]
    flat, val_flat = (rows.reshape(len(rows), -1) for rows in targets)
    model = fit_ridge(train.averages(), flat, val.averages(), val_flat)
    prediction: np.ndarray = model.predict(test_voxels)
    return prediction


def _read_truth(store: Store, subject: Subject) -> SimulatedSubject:
    data = store.read(subject.truth)
    if hashlib.sha256(data).hexdigest() != subject.truth_sha256:
        raise DataError(f"{store.locate(subject.truth)}: is not the truth of the manifest")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "truth.safetensors"
        path.write_bytes(data)
        return SimulatedSubject.load(path)


def _ceilings(
    subject: SimulatedSubject,
    test: Dataset,
    voxels: Float[np.ndarray, "brains voxels"],
    clip_tokens: Float[np.ndarray, "images tokens dim"],
    seed: int,
) -> dict[str, Any]:
    decoder = OptimalDecoder(subject, subject.config.num_repeats)
    pictures = [
        small(decode(data, "a picture of the test split"))
        for data in test.pictures(range(len(test)))
    ]
    evidence = decoder.similarity(voxels, subject.space(clip_tokens, np.stack(pictures)))
    observer = scores(evidence, numpy_generator(seed, "bootstrap"))
    linear = _both(decoder.clip_tokens(voxels), clip_tokens.reshape(len(clip_tokens), -1), seed)
    # A likelihood needs no centring: it already accounts for how common a picture or a brain is.
    centred = {f"{direction}_centred": row for direction, row in observer.items()}
    return {"optimal": observer | centred, "optimal_linear": linear}


def _examples(
    scores_by_query: Float[np.ndarray, "queries candidates"], count: int, seed: int
) -> list[Example]:
    place = ranks(scores_by_query, "brain_to_image")
    queries = numpy_generator(seed, "examples").permutation(len(place))[:count]
    return [
        Example(
            query=int(query),
            matches=tuple(int(n) for n in np.argsort(-scores_by_query[query], kind="stable")[:5]),
            rank=int(place[query]) + 1,
        )
        for query in queries
    ]
