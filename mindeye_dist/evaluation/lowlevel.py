"""Low-level evaluation: blurry pictures against the seen ones, beside their controls."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch.nn import functional

from mindeye_dist.decoding.predictor import Predictor, check_codec
from mindeye_dist.evaluation.data import EvaluationData, check_data
from mindeye_dist.evaluation.picture_scores import PIXEL_SIDE, PictureJudge
from mindeye_dist.evaluation.results import Evaluation, LowLevel
from mindeye_dist.evaluation.retrieval import _about, _ridge
from mindeye_dist.frozen.codecs import LatentCodec
from mindeye_dist.pictures import decode
from mindeye_dist.randomness import numpy_generator


def evaluate_lowlevel_alone(
    predictor: Predictor,
    codec: LatentCodec,
    data: EvaluationData,
    *,
    num_examples: int = 12,
    seed: int = 0,
) -> Evaluation:
    """Return the evaluation of a low-level checkpoint without a high-level one: no retrieval.

    Raises:
        DataError: data or codec do not fit the checkpoint.
    """
    lowlevel = evaluate_lowlevel(predictor, codec, data, num_examples=num_examples, seed=seed)
    return Evaluation(_about(predictor, data), examples={}, pictures={}, lowlevel=lowlevel)


def evaluate_lowlevel(
    predictor: Predictor,
    codec: LatentCodec,
    data: EvaluationData,
    *,
    num_examples: int = 12,
    seed: int = 0,
) -> LowLevel:
    """Return how well a low-level checkpoint's blurry pictures correlate with the seen ones.

    Beside the model: ridge regression on the same data, the same pictures dealt out to other brains
    (shuffled), the mean latents of the training split for every brain (mean_picture), and the true
    latents decoded (perfect_latents), which is the most that latents can give. Pictures are scored
    as reconstructions are, at the published sizes.

    Raises:
        DataError: data or codec do not fit the checkpoint (see `check_data`, `check_codec`).
        InputError: the seen pictures are not square.
    """
    check_data(predictor, data)
    check_codec(predictor, codec)
    splits, test = data.splits, data.splits["test"]
    voxels = test.averages()
    files = test.pictures(range(len(test)))
    seen = np.stack([decode(file, "a picture of the test split") for file in files])
    judge = PictureJudge(seen.transpose(0, 3, 1, 2).astype(np.float32) / 255, networks=[])
    mean = splits["train"].all_targets("latents").mean(axis=0, keepdims=True)
    ridge = _ridge(splits, "latents", voxels).reshape(-1, *codec.shape)
    order = numpy_generator(seed, "shuffled brains").permutation(len(test))
    made = _decoded(codec, predictor.latents(voxels))
    pictures = {
        "model": made,
        "ridge": _decoded(codec, ridge),
        "shuffled": made[order],
        "mean_picture": _decoded(codec, mean).repeat(len(test), axis=0),
        "perfect_latents": _decoded(codec, test.all_targets("latents")),
    }
    rows = {name: _picture_scores(judge, recon, seed) for name, recon in pictures.items()}
    shown = numpy_generator(seed, "lowlevel examples").permutation(len(test))[:num_examples]
    report = {
        "checkpoint": str(predictor.path),
        "codec": {"name": codec.name, "digest": codec.digest, "shape": list(codec.shape)},
        "pool": len(test),
        "side": PIXEL_SIDE,
        **rows,
    }
    drawn = (_sized(pictures[name][shown], seen.shape[1]) for name in ("model", "perfect_latents"))
    examples = list(zip([files[n] for n in shown], *drawn, strict=True))
    return LowLevel(report=report, examples=examples)


def _decoded(
    codec: LatentCodec, latents: Float[np.ndarray, "pictures channels height width"]
) -> Float[np.ndarray, "pictures 3 side side"]:
    parts = torch.from_numpy(latents.astype(np.float32)).split(64)
    return torch.cat([codec.decode(part).clamp(0, 1).cpu() for part in parts]).float().numpy()


def _sized(
    pictures: Float[np.ndarray, "pictures 3 height width"], side: int
) -> Float[np.ndarray, "pictures 3 side side"]:
    return functional.interpolate(torch.from_numpy(pictures), (side, side), mode="bilinear").numpy()


def _picture_scores(
    judge: PictureJudge, recon: Float[np.ndarray, "pictures 3 height width"], seed: int
) -> dict[str, Any]:
    scores = judge.scores(recon, seed)
    return {
        key: {what: scores[key][what] for what in ("mean", "ci", "undefined")}
        for key in ("pixcorr", "ssim")
    }
