"""Evaluate: a Predictor on the test split -> a report that is JSON.

Retrieval over the whole test pool in both directions, raw and centred, beside what frames it:
chance, a ridge baseline on the same training data, brains shuffled against pictures, and, for a
simulated subject, the best linear decoder and the ideal observer that know the truth. The low-level
pipeline's blurry pictures are compared with the seen ones, beside the same controls.
"""

import hashlib
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch.nn import functional

from mindeye_dist.baseline import fit_ridge
from mindeye_dist.data.loader import Dataset
from mindeye_dist.data.pictures import decode, small
from mindeye_dist.data.shards import Manifest, Subject, Targets
from mindeye_dist.data.simulate import OptimalDecoder, SimulatedSubject
from mindeye_dist.data.store import DataError, Store
from mindeye_dist.image_metrics import pixcorr, ssim
from mindeye_dist.inference import Predictor
from mindeye_dist.metrics import DIRECTIONS, bootstrap_interval, ranks
from mindeye_dist.models.codecs import LatentCodec
from mindeye_dist.randomness import numpy_generator
from mindeye_dist.report import Evaluation, Example, LowLevel
from mindeye_dist.retrieval import scores, similarity
from mindeye_dist.strict import to_dict


def evaluate(
    predictor: Predictor, store: Store, manifest: Manifest, *, num_examples: int = 12, seed: int = 0
) -> Evaluation:
    """Return the evaluation of a checkpoint on the test split of the subject it was trained on.

    Raises:
        DataError: the data's targets are not by the encoder that the checkpoint was trained with.
    """
    data = predictor.config.data
    subject = manifest.subject(data.subject)
    targets = _same_targets(predictor, store, subject, "clip_tokens")
    splits = {
        name: Dataset(store, manifest, data, name, predictor.config.target_sets)
        for name in ("train", "val", "test")
    }
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


def evaluate_lowlevel(
    predictor: Predictor,
    codec: LatentCodec,
    store: Store,
    manifest: Manifest,
    *,
    num_examples: int = 12,
    seed: int = 0,
) -> LowLevel:
    """Return how well a low-level checkpoint's blurry pictures correlate with the seen ones.

    Beside the model: ridge regression on the same data, the same pictures dealt out to other brains
    (shuffled), the mean latents of the training split for every brain (mean_picture), and the true
    latents decoded (perfect_latents), which is the most that latents can give.

    Raises:
        DataError: the data's latents are not by the codec that the checkpoint was trained with, or
            the codec is another one.
    """
    data = predictor.config.data
    targets = _same_targets(predictor, store, manifest.subject(data.subject), "latents")
    if codec.digest != targets.digest:
        raise DataError(
            f"{data.subject}: latents {data.latents!r} are by {targets.encoder} "
            f"{targets.digest[:12]}, the codec given is {codec.name} {codec.digest[:12]}"
        )
    sets = {"latents": data.latents}
    splits = {n: Dataset(store, manifest, data, n, sets) for n in ("train", "val", "test")}
    test, voxels = splits["test"], splits["test"].averages()
    files = test.pictures(range(len(test)))
    seen = np.stack([decode(file, "a picture of the test split") for file in files])
    mean = splits["train"].all_targets("latents").mean(axis=0, keepdims=True)
    ridge = _ridge(splits, "latents", voxels).reshape(-1, *codec.shape)
    order = numpy_generator(seed, "shuffled brains").permutation(len(test))
    made = _decoded(codec, predictor.latents(voxels), seen.shape[1])
    pictures = {
        "model": made,
        "ridge": _decoded(codec, ridge, seen.shape[1]),
        "shuffled": made[order],
        "mean_picture": _decoded(codec, mean, seen.shape[1]).repeat(len(test), axis=0),
        "perfect_latents": _decoded(codec, test.all_targets("latents"), seen.shape[1]),
    }
    truth = seen.transpose(0, 3, 1, 2).astype(np.float32) / 255
    rows = {name: _picture_scores(truth, recon, seed) for name, recon in pictures.items()}
    shown = numpy_generator(seed, "lowlevel examples").permutation(len(test))[:num_examples]
    report = {
        "checkpoint": str(predictor.path),
        "codec": {"name": codec.name, "digest": codec.digest, "shape": list(codec.shape)},
        "pool": len(test),
        "side": int(seen.shape[1]),
        **rows,
    }
    examples = [(files[n], made[n], pictures["perfect_latents"][n]) for n in shown.tolist()]
    return LowLevel(report=report, examples=examples)


def _decoded(
    codec: LatentCodec, latents: Float[np.ndarray, "pictures channels height width"], side: int
) -> Float[np.ndarray, "pictures 3 side side"]:
    parts = [
        functional.interpolate(codec.decode(part), (side, side), mode="bilinear").clamp(0, 1)
        for part in torch.from_numpy(latents.astype(np.float32)).split(64)
    ]
    return torch.cat(parts).cpu().numpy()


def _picture_scores(
    seen: Float[np.ndarray, "pictures 3 height width"],
    recon: Float[np.ndarray, "pictures 3 height width"],
    seed: int,
) -> dict[str, Any]:
    each = {"pixcorr": pixcorr(seen, recon), "ssim": ssim(seen, recon)}
    return {
        name: {
            "mean": float(values.mean()),
            "ci": list(bootstrap_interval(values, numpy_generator(seed, "bootstrap"))),
        }
        for name, values in each.items()
    }


def _same_targets(predictor: Predictor, store: Store, subject: Subject, kind: str) -> Targets:
    config = predictor.config
    name = config.target_sets[kind]
    targets, trained = subject.target_set(kind, name), predictor.shapes.targets[kind]
    if targets.digest != trained.digest:
        raise DataError(
            f"{store.url}: {config.data.subject}: {kind} {name!r} are not by the encoder of "
            f"{predictor.path} ({trained.encoder} {trained.digest[:12]})"
        )
    return targets


def _both(
    brains: Float[np.ndarray, "brains features"],
    images: Float[np.ndarray, "images features"],
    seed: int,
) -> dict[str, Any]:
    rows = scores(similarity(brains, images), numpy_generator(seed, "bootstrap"))
    centred = scores(similarity(brains, images, centred=True), numpy_generator(seed, "bootstrap"))
    return rows | {f"{direction}_centred": row for direction, row in centred.items()}


def _ridge(
    splits: dict[str, Dataset], kind: str, test_voxels: Float[np.ndarray, "brains voxels"]
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
