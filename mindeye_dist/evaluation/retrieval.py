"""Retrieval: a high-level checkpoint on the test split -> scores of both directions.

In: a Predictor and the splits. Out: top-1, top-5 and median rank over the whole test pool, raw and
centred. Reference rows: chance, ridge regression on the same training data, brains shuffled against
pictures and, for a simulated subject, the best linear decoder and the ideal observer, which know
the simulator's parameters. Scotti et al. (2023), section 4.1.
"""

import hashlib
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from mindeye_dist.config import DataConfig
from mindeye_dist.data.dataset import Dataset
from mindeye_dist.data.manifest import Subject
from mindeye_dist.decoding.predictor import Predictor
from mindeye_dist.errors import DataError
from mindeye_dist.evaluation.data import EvaluationData, check_data, checkpoint_facts
from mindeye_dist.evaluation.results import Evaluation, RetrievalExample
from mindeye_dist.evaluation.ridge import ridge_predictions
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

NUM_MATCHES = 5
"""Number of matches that the page shows for an example."""


def evaluate_retrieval(
    predictor: Predictor, data: EvaluationData, *, num_examples: int = 12, seed: int = 0
) -> Evaluation:
    """Evaluate a high-level checkpoint on the test split.

    Raises:
        DataError: the data do not fit the checkpoint (see `check_data`).
    """
    check_data(predictor, data)
    subject = data.manifest.subject(predictor.subject)
    train, val, test = (data.splits[name] for name in ("train", "val", "test"))
    voxels, clip_tokens = test.averages(), test.all_targets("clip_tokens")
    images = clip_tokens.reshape(len(clip_tokens), -1)
    brains = predictor.embed(voxels)
    model = similarity(brains, images)
    order = numpy_generator(seed, "shuffled brains").permutation(len(brains))
    rows = {
        "model": _raw_and_centred(brains, images, seed),
        "ridge": _raw_and_centred(
            ridge_predictions(train, val, "clip_tokens", voxels), images, seed
        ),
        "shuffled": _raw_and_centred(brains[order], images, seed),
    }
    if subject.truth and _simulated_from(subject, data.targets):
        truth = _read_truth(test.store, subject)
        rows |= _ceilings(truth, test, voxels, clip_tokens, seed)
    examples: dict[str, list[RetrievalExample]] = {
        direction: _examples(
            model if direction == "brain_to_image" else model.T, num_examples, seed
        )
        for direction in DIRECTIONS
    }
    shown = sorted({n for page in examples.values() for e in page for n in (e.query, *e.matches)})
    retrieval = {"pool": len(brains), "chance": 1 / len(brains), **rows}
    report = checkpoint_facts(predictor, data) | {"retrieval": retrieval}
    if len(brains) >= PUBLISHED_POOL:
        report["retrieval_in_draws"] = {
            "model": retrieval_in_draws(brains, images, PUBLISHED_POOL, seed=seed),
            "shuffled": retrieval_in_draws(brains[order], images, PUBLISHED_POOL, seed=seed),
        }
    pictures = dict(zip(shown, test.pictures(shown), strict=True))
    return Evaluation(report=report, examples=examples, pictures=pictures)


def _simulated_from(subject: Subject, targets: TargetShape) -> bool:
    """Return whether a simulated subject responds to these targets: the ceilings need that."""
    simulated = subject.targets.get(DataConfig.targets)
    return simulated is not None and simulated.digest == targets.digest


def _raw_and_centred(
    brains: Float[np.ndarray, "brains features"],
    images: Float[np.ndarray, "images features"],
    seed: int,
) -> dict[str, Any]:
    rows = scores(similarity(brains, images), numpy_generator(seed, "bootstrap"))
    centred = scores(similarity(brains, images, centred=True), numpy_generator(seed, "bootstrap"))
    return rows | {f"{direction}_centred": row for direction, row in centred.items()}


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
    linear = _raw_and_centred(
        decoder.clip_tokens(voxels), clip_tokens.reshape(len(clip_tokens), -1), seed
    )
    # Likelihoods need no centring: they already account for how common a picture or a brain is.
    centred = {f"{direction}_centred": row for direction, row in observer.items()}
    return {"optimal": observer | centred, "optimal_linear": linear}


def _examples(
    scores_by_query: Float[np.ndarray, "queries candidates"], count: int, seed: int
) -> list[RetrievalExample]:
    rank = ranks(scores_by_query, "brain_to_image")
    queries = numpy_generator(seed, "examples").permutation(len(rank))[:count]
    best = np.argsort(-scores_by_query[queries], axis=1, kind="stable")[:, :NUM_MATCHES]
    return [
        RetrievalExample(query=int(query), matches=tuple(matches), rank=int(rank[query]) + 1)
        for query, matches in zip(queries, best.tolist(), strict=True)
    ]
