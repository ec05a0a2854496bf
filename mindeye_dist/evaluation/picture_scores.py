"""Picture scores: seen and reconstructed pictures -> every published score with its interval.

As published, both sides are scaled to 256 x 256, and from there to 425 x 425 for the pixel scores,
bilinearly and without antialiasing. The result also counts the pictures whose correlation is
undefined, and names the networks that are missing. Scotti et al. (2023), section 4.2.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32

from mindeye_dist.errors import InputError
from mindeye_dist.evaluation.image_metrics import (
    PerPicture,
    correlation,
    pixcorr,
    ssim,
    two_way,
    varies,
)
from mindeye_dist.frozen.metric_networks import FeatureNetwork, resize
from mindeye_dist.metrics import bootstrap_interval
from mindeye_dist.randomness import numpy_generator

SIDE, PIXEL_SIDE = 256, 425
"""Side of the pictures for the networks and for the pixel scores, in pixels."""
BATCH = 16
"""Number of pictures per forward pass of a network, or per task of a thread."""
THREADS = min(8, os.cpu_count() or 1)
FLAT = 1e-3
"""Largest range of values in a channel of one colour: a quarter of an 8-bit step."""
# Rounding of a sampler may leave [0, 1] by this much; anything further is an error.
_OVERSHOOT = 1e-3

Pictures = Float[np.ndarray, "pictures 3 height width"]
Features = Float32[np.ndarray, "pictures features"]


@dataclass(frozen=True, kw_only=True)
class PictureMetric:
    """Description of a score for reports.

    Attributes:
        label: name of the score.
        chance: expected value for the reconstruction of another picture; None if unknown.
        perfect: value for the seen picture itself.
        better: direction of improvement.
        option: command-line option of the network's weights; empty if it has no network.
    """

    label: str
    chance: float | None
    perfect: float
    better: Literal["higher", "lower"]
    option: str = ""


def _two_way(label: str, option: str) -> PictureMetric:
    return PictureMetric(label=label, chance=0.5, perfect=1.0, better="higher", option=option)


def _distance(label: str, option: str) -> PictureMetric:
    return PictureMetric(label=label, chance=None, perfect=0.0, better="lower", option=option)


METRICS: Mapping[str, PictureMetric] = MappingProxyType(
    {
        "pixcorr": PictureMetric(label="PixCorr", chance=None, perfect=1.0, better="higher"),
        "ssim": PictureMetric(label="SSIM", chance=None, perfect=1.0, better="higher"),
        "alexnet2": _two_way("AlexNet(2)", "alexnet"),
        "alexnet5": _two_way("AlexNet(5)", "alexnet"),
        "inception": _two_way("Inception", "inception"),
        "clip": _two_way("CLIP", "clip"),
        "efficientnet_b1": _distance("EffNet-B", "efficientnet-b1"),
        "swav": _distance("SwAV", "swav"),
        "lite0_two_way": _two_way("EffNet-Lite0 two-way", "lite0"),
        "lite0_distance": _distance("EffNet-Lite0 distance", "lite0"),
    }
)
"""Every score by its key, in the order of the published table; Lite0's two are additional."""


def published_size(
    pictures: Pictures, side: int = SIDE, antialias: bool = False
) -> Float32[np.ndarray, "pictures 3 {side} {side}"]:
    """Scale pictures in [0, 1] to `side` x `side`, bilinearly, and clamp them."""
    return resize(torch.from_numpy(pictures), side, antialias=antialias).clamp(0, 1).numpy()


class PictureJudge:
    """Scores sets of reconstructions of the same seen pictures, whose features are computed once.

    Args:
        seen: pictures in [0, 1], (pictures, 3, side, side).
        networks: networks whose features are compared, one for each metric's key.
        gaps: reason why a metric is missing, by its key. Other metrics without a network name the
            option for their weights.
        antialias: antialiased downscaling; the published scores have none.

    Raises:
        InputError: `seen` has another shape, type or range; a network or gap has an unknown key, or
            a key occurs twice.
    """

    def __init__(
        self,
        seen: np.ndarray,
        networks: Sequence[FeatureNetwork],
        *,
        gaps: Mapping[str, str] = MappingProxyType({}),
        antialias: bool = False,
    ) -> None:
        _check_pictures(seen, "seen")
        keys = [network.key for network in networks]
        for key in (*keys, *gaps):
            if key not in METRICS:
                raise InputError(f"got a network or gap {key!r}, expected one of {list(METRICS)}")
            if [*keys, *gaps].count(key) > 1:
                raise InputError(f"metric {key}: got more than one network or gap for it")
        self._seen, self._antialias, self._gaps = seen, antialias, dict(gaps)
        self._networks = {network.key: network for network in networks}
        self._features = {
            function: self._encode(function, seen, "seen") for function in self._functions()
        }

    def scores(self, recon: np.ndarray, seed: int) -> dict[str, dict[str, Any]]:
        """Return all scores of reconstructions in [0, 1], (pictures, 3, side, side), by key.

        A score has its `mean`, the 95 % bootstrap interval `ci` over pictures, `each` picture's
        value, the number `undefined` and the indices `undefined_pictures` of pictures of one colour
        or with constant features. Undefined values count as correlation 0, distance 1 and two-way
        0. A missing metric has only a `gap`.

        Raises:
            InputError: there are not as many pictures as seen ones, their shape differs, or values
                are not finite or outside 0..1.
        """
        _check_pictures(recon, "reconstructed")
        if len(recon) != len(self._seen):
            raise InputError(
                f"got {len(recon)} reconstructed pictures for {len(self._seen)} seen ones"
            )
        values = self._pixel_scores(recon)
        for function in self._functions():
            features = self._encode(function, recon, "reconstructed")
            for network in self._networks.values():
                if network.features == function:
                    values[network.key] = _feature_scores(
                        network, self._features[function], features
                    )
        return {
            key: _summary(key, *values[key], seed) if key in values else {"gap": self._gap(key)}
            for key in METRICS
        }

    def _functions(self) -> list[Callable[..., Any]]:
        return list(dict.fromkeys(network.features for network in self._networks.values()))

    def _gap(self, key: str) -> str:
        missing = f"weights not given: --networks.{METRICS[key].option} PATH"
        return self._gaps.get(key, missing)

    def _pixel_scores(self, recon: Pictures) -> dict[str, tuple[PerPicture, np.ndarray]]:
        """Return values and undefined pictures of each pixel score.

        The pictures are scored in blocks, since a thousand of 425 x 425 pixels take 4 GB.
        """

        def score(start: int) -> tuple[PerPicture, PerPicture]:
            pair = [
                published_size(
                    published_size(pictures[start : start + BATCH], antialias=self._antialias),
                    PIXEL_SIDE,
                    antialias=self._antialias,
                )
                for pictures in (self._seen, recon)
            ]
            return pixcorr(*pair), ssim(*pair)

        with ThreadPoolExecutor(THREADS) as pool:  # NumPy and SciPy use one core each
            parts = list(pool.map(score, range(0, len(recon), BATCH)))
        correlations, similarities = (np.concatenate(part) for part in zip(*parts, strict=True))
        flat = _are_of_one_colour(self._seen) | _are_of_one_colour(recon)
        correlations[flat] = 0
        none = np.zeros(len(recon), bool)  # SSIM is defined for every picture
        return {"pixcorr": (correlations, flat), "ssim": (similarities, none)}

    def _encode(self, function: Callable[..., Any], pictures: Pictures, side: str) -> Features:
        batches = []
        for start in range(0, len(pictures), BATCH):
            batch = published_size(pictures[start : start + BATCH], antialias=self._antialias)
            batches.append(function(torch.from_numpy(batch)).float().cpu().numpy())
        features = np.concatenate(batches)
        broken = np.flatnonzero(~np.isfinite(features).all(axis=1))
        if len(broken):
            labels = [n.label for n in self._networks.values() if n.features == function]
            raise InputError(
                f"{labels[0]}: features of {side} pictures {broken.tolist()} are not finite"
            )
        return features


def _feature_scores(
    network: FeatureNetwork, seen: Features, recon: Features
) -> tuple[PerPicture, Bool[np.ndarray, " pictures"]]:
    """Return values and undefined pictures of a network's score."""
    undefined = ~(varies(seen) & varies(recon))
    if network.score == "two_way":
        values, fallback = two_way(seen, recon), 0.0
    else:
        values, fallback = 1 - correlation(seen, recon), 1.0
    values[undefined] = fallback
    return values, undefined


def _summary(
    key: str, values: PerPicture, undefined: Bool[np.ndarray, " pictures"], seed: int
) -> dict[str, Any]:
    return {
        "mean": float(values.mean()),
        "ci": list(bootstrap_interval(values, numpy_generator(seed, "bootstrap", key))),
        "undefined": int(undefined.sum()),
        "undefined_pictures": np.flatnonzero(undefined).tolist(),
        "each": values.tolist(),
    }


def _are_of_one_colour(pictures: Pictures) -> Bool[np.ndarray, " pictures"]:
    return (np.ptp(pictures, axis=(2, 3)) <= FLAT).all(axis=1)


def _check_pictures(pictures: np.ndarray, label: str) -> None:
    shape = pictures.shape
    if len(shape) != 4 or shape[1] != 3 or shape[2] != shape[3] or not pictures.size:
        raise InputError(
            f"{label} pictures: got shape {shape}, expected (pictures, 3, side, side) with at "
            "least one picture"
        )
    if pictures.dtype not in (np.float32, np.float64):
        raise InputError(f"{label} pictures: got {pictures.dtype}, expected float32 in [0, 1]")
    # Comparisons with NaN are false.
    inside = (pictures >= -_OVERSHOOT) & (pictures <= 1 + _OVERSHOOT)
    broken = np.flatnonzero(~inside.all(axis=(1, 2, 3)))
    if len(broken):
        raise InputError(
            f"{label} pictures {broken.tolist()}: got values that are not finite or outside of 0..1"
        )
