"""Low-level evaluation: blurry pictures compared with the seen ones, beside controls.

In: a low-level Predictor, the codec of its latents, and the splits. Out: PixCorr and SSIM of model,
ridge regression, shuffled brains, mean picture and perfect latents. Scotti et al. (2023), section
4.2.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch.nn import functional

from mindeye_dist.decoding.predictor import Predictor, check_codec
from mindeye_dist.evaluation.data import EvaluationData, check_data, checkpoint_facts
from mindeye_dist.evaluation.picture_scores import PIXEL_SIDE, PictureJudge
from mindeye_dist.evaluation.results import Evaluation, LowLevelResult
from mindeye_dist.evaluation.ridge import ridge_predictions
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
    """Evaluate a low-level checkpoint without a high-level one: blurry pictures, no retrieval.

    Raises:
        DataError: the data or the codec do not fit the checkpoint.
    """
    lowlevel = evaluate_lowlevel(predictor, codec, data, num_examples=num_examples, seed=seed)
    facts = checkpoint_facts(predictor, data)
    return Evaluation(facts, examples={}, pictures={}, lowlevel=lowlevel)


def evaluate_lowlevel(
    predictor: Predictor,
    codec: LatentCodec,
    data: EvaluationData,
    *,
    num_examples: int = 12,
    seed: int = 0,
) -> LowLevelResult:
    """Score a low-level checkpoint's blurry pictures against the seen ones, as reconstructions are.

    Beside the model: ridge regression on the same data, the model's pictures assigned to other
    brains (shuffled), the training split's mean latents for every brain (mean_picture), and the
    true latents decoded (perfect_latents), the upper bound of any latents.

    Raises:
        DataError: the data or the codec do not fit the checkpoint (see `check_data`,
            `check_codec`).
        InputError: the seen pictures are not square.
    """
    check_data(predictor, data)
    check_codec(predictor, codec)
    train, val, test = (data.splits[name] for name in ("train", "val", "test"))
    voxels = test.averages()
    files = test.pictures(range(len(test)))
    seen = np.stack([decode(file, "a picture of the test split") for file in files])
    judge = PictureJudge(seen.transpose(0, 3, 1, 2).astype(np.float32) / 255, networks=[])
    mean = train.all_targets("latents").mean(axis=0, keepdims=True)
    ridge = ridge_predictions(train, val, "latents", voxels).reshape(-1, *codec.shape)
    order = numpy_generator(seed, "shuffled brains").permutation(len(test))
    predicted = _decode(codec, predictor.latents(voxels))
    pictures = {
        "model": predicted,
        "ridge": _decode(codec, ridge),
        "shuffled": predicted[order],
        "mean_picture": _decode(codec, mean).repeat(len(test), axis=0),
        "perfect_latents": _decode(codec, test.all_targets("latents")),
    }
    rows = {name: _pixel_scores(judge, recon, seed) for name, recon in pictures.items()}
    shown = numpy_generator(seed, "lowlevel examples").permutation(len(test))[:num_examples]
    report = {
        "checkpoint": str(predictor.path),
        "codec": {"name": codec.name, "digest": codec.digest, "shape": list(codec.shape)},
        "pool": len(test),
        "side": PIXEL_SIDE,
        **rows,
    }
    pairs = (_resize(pictures[name][shown], seen.shape[1]) for name in ("model", "perfect_latents"))
    examples = list(zip([files[n] for n in shown], *pairs, strict=True))
    return LowLevelResult(report=report, examples=examples)


def _decode(
    codec: LatentCodec, latents: Float[np.ndarray, "pictures channels height width"]
) -> Float[np.ndarray, "pictures 3 side side"]:
    parts = torch.from_numpy(latents.astype(np.float32)).split(64)
    return torch.cat([codec.decode(part).clamp(0, 1).cpu() for part in parts]).float().numpy()


def _resize(
    pictures: Float[np.ndarray, "pictures 3 height width"], side: int
) -> Float[np.ndarray, "pictures 3 side side"]:
    return functional.interpolate(torch.from_numpy(pictures), (side, side), mode="bilinear").numpy()


def _pixel_scores(
    judge: PictureJudge, recon: Float[np.ndarray, "pictures 3 height width"], seed: int
) -> dict[str, Any]:
    scores = judge.scores(recon, seed)
    return {
        key: {part: scores[key][part] for part in ("mean", "ci", "undefined")}
        for key in ("pixcorr", "ssim")
    }
