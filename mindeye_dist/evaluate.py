"""Evaluate: a Predictor on the test split -> a report that is JSON.

Retrieval over the whole test pool in both directions, raw and centred, beside what frames it:
chance, a ridge baseline on the same training data, brains shuffled against pictures, and, for a
simulated subject, the best linear decoder and the ideal observer that know the truth.
"""

import hashlib
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from mindeye_dist.baseline import fit_ridge
from mindeye_dist.config import to_dict
from mindeye_dist.data.loader import Dataset
from mindeye_dist.data.pictures import decode, small
from mindeye_dist.data.shards import Manifest, Subject
from mindeye_dist.data.simulate import OptimalDecoder, SimulatedSubject
from mindeye_dist.data.store import DataError, Store
from mindeye_dist.inference import Predictor
from mindeye_dist.metrics import DIRECTIONS, ranks
from mindeye_dist.randomness import numpy_generator
from mindeye_dist.report import Evaluation, Example
from mindeye_dist.retrieval import scores, similarity


def evaluate(
    predictor: Predictor, store: Store, manifest: Manifest, *, num_examples: int = 12, seed: int = 0
) -> Evaluation:
    """Return the evaluation of a checkpoint on the test split of the subject it was trained on.

    Raises:
        DataError: the data's targets are not by the encoder that the checkpoint was trained with.
    """
    data = predictor.config.data
    subject = manifest.subject(data.subject)
    targets = subject.clip_targets(data.targets)
    if targets.digest != predictor.shapes.encoder_digest:
        raise DataError(
            f"{store.url}: {data.subject}: targets {data.targets!r} are not by the encoder of "
            f"{predictor.path} ({predictor.shapes.encoder} {predictor.shapes.encoder_digest[:12]})"
        )
    splits = {name: Dataset(store, manifest, data, name) for name in ("train", "val", "test")}
    voxels, clip_tokens = splits["test"].averages()
    images = clip_tokens.reshape(len(clip_tokens), -1)
    brains = predictor.embed(voxels)
    model = similarity(brains, images)
    order = numpy_generator(seed, "shuffled brains").permutation(len(brains))
    rows = {
        "model": _both(brains, images, seed),
        "ridge": _both(_ridge(splits, voxels), images, seed),
        "shuffled": _both(brains[order], images, seed),
    }
    if subject.truth:
        truth = _read_truth(store, subject)
        rows |= _ceilings(truth, splits["test"], voxels, clip_tokens, seed)
    examples: dict[str, list[Example]] = {
        direction: _examples(
            model if direction == "brain_to_image" else model.T, num_examples, seed
        )
        for direction in DIRECTIONS
    }
    shown = sorted({n for page in examples.values() for e in page for n in (e.query, *e.matches)})
    report = {
        "checkpoint": str(predictor.path),
        "subject": data.subject,
        "num_voxels": subject.num_voxels,
        "simulated": bool(subject.truth),
        "licence": manifest.licence,
        "targets": {"name": data.targets, "encoder": targets.encoder, "digest": targets.digest},
        "counts": {name: len(split) for name, split in splits.items()},
        "retrieval": {"pool": len(brains), "chance": 1 / len(brains), **rows},
        "config": to_dict(predictor.config),
    }
    pictures = dict(zip(shown, splits["test"].pictures(shown), strict=True))
    return Evaluation(report=report, examples=examples, pictures=pictures)


def _both(
    brains: Float[np.ndarray, "brains features"],
    images: Float[np.ndarray, "images features"],
    seed: int,
) -> dict[str, Any]:
    rows = scores(similarity(brains, images), numpy_generator(seed, "bootstrap"))
    centred = scores(similarity(brains, images, centred=True), numpy_generator(seed, "bootstrap"))
    return rows | {f"{direction}_centred": row for direction, row in centred.items()}


def _ridge(
    splits: dict[str, Dataset], test_voxels: Float[np.ndarray, "brains voxels"]
) -> Float[np.ndarray, "brains features"]:
    (voxels, tokens), (val_voxels, val_tokens) = (
        splits["train"].averages(),
        splits["val"].averages(),
    )
    model = fit_ridge(
        voxels, tokens.reshape(len(tokens), -1), val_voxels, val_tokens.reshape(len(val_tokens), -1)
    )
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
