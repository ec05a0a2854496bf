"""Picture scores: seen and reconstructed pictures -> every published score, with its interval.

As published (Scotti et al. 2023, section 4.2): both sides are scaled to 256 x 256, the pixel scores
to 425 x 425 from there, bilinearly and without antialias. What the published scores leave unsaid
stands beside them: how many pictures have no correlation at all, and which networks are missing.
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
BATCH = 16
"""Pictures that one network or thread has in work."""
THREADS = min(8, os.cpu_count() or 1)
FLAT = 1e-3
"""Range of values of a channel, a quarter of an 8-bit step, up to which it is of one colour."""
# A sampler's rounding; what lies further out is not in [0, 1] by mistake.
_OVERSHOOT = 1e-3

Pictures = Float[np.ndarray, "pictures 3 height width"]
Features = Float32[np.ndarray, "pictures features"]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A score as reports show it.

    Attributes:
        label: its name.
        chance: what a reconstruction of another picture gets, where that is known.
        perfect: what the seen picture itself gets.
        better: which way is better.
        option: under which name the weights that it needs are given; empty for none.
    """

    label: str
    chance: float | None
    perfect: float
    better: Literal["higher", "lower"]
    option: str = ""


def _two_way(label: str, option: str) -> Metric:
    return Metric(label=label, chance=0.5, perfect=1.0, better="higher", option=option)


def _distance(label: str, option: str) -> Metric:
    return Metric(label=label, chance=None, perfect=0.0, better="lower", option=option)


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "pixcorr": Metric(label="PixCorr", chance=None, perfect=1.0, better="higher"),
        "ssim": Metric(label="SSIM", chance=None, perfect=1.0, better="higher"),
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
"""Every score by its key, in the order of the published table; Lite0's are not in that one."""


def published_size(
    pictures: Pictures, side: int = SIDE, antialias: bool = False
) -> Float32[np.ndarray, "pictures 3 {side} {side}"]:
    """Scale pictures in [0, 1] to `side` x `side`, bilinearly, and clamp them."""
    return resize(torch.from_numpy(pictures), side, antialias=antialias).clamp(0, 1).numpy()


class PictureJudge:
    """Scores many sets of reconstructions of the same pictures, whose features are made once.

    Args:
        seen: pictures in [0, 1], (pictures, 3, side, side).
        networks: by whose features to judge, each for its key in `METRICS`.
        gaps: why a metric is missing, by its key; for others without a network the result says
            under which option its weights would have been given.
        antialias: filter when pictures are made smaller. The published scores are not filtered.

    Raises:
        InputError: the pictures are no pictures, or a network or gap is of no metric, or twice.
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
        """Return the scores of reconstructions in [0, 1], (pictures, 3, side, side), by `METRICS`.

        Each has its `mean`, the 95 % bootstrap interval over pictures `ci`, `each` picture's score,
        and how many and which are undefined, since a picture of one colour or constant features
        cannot correlate. These count as what tells nothing: correlation 0, distance 1, two-way 0. A
        metric that could not be taken has a `gap` only.

        Raises:
            InputError: there are not as many pictures as were seen, they have another shape, or
                values are not finite or outside of [0, 1].
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
        given = f"weights not given: --networks.{METRICS[key].option} PATH"
        return self._gaps.get(key, given)

    def _pixel_scores(self, recon: Pictures) -> dict[str, tuple[PerPicture, np.ndarray]]:
        """Return each pixel score of each picture, and for which it is undefined.

        In blocks: at 425 x 425 a thousand pictures are 4 GB.
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

        with ThreadPoolExecutor(THREADS) as pool:  # it is NumPy's and SciPy's work, one core each
            parts = list(pool.map(score, range(0, len(recon), BATCH)))
        correlations, similarities = (np.concatenate(part) for part in zip(*parts, strict=True))
        flat = _of_one_colour(self._seen) | _of_one_colour(recon)
        correlations[flat] = 0
        nothing = np.zeros(len(recon), bool)  # luminance, contrast and structure always compare
        return {"pixcorr": (correlations, flat), "ssim": (similarities, nothing)}

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
    """Return a network's score of each picture, and for which it is undefined."""
    undefined = ~(varies(seen) & varies(recon))
    if network.score == "two_way":
        values, nothing_told = two_way(seen, recon), 0.0
    else:
        values, nothing_told = 1 - correlation(seen, recon), 1.0
    values[undefined] = nothing_told
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


def _of_one_colour(pictures: Pictures) -> Bool[np.ndarray, " pictures"]:
    return (np.ptp(pictures, axis=(2, 3)) <= FLAT).all(axis=1)


def _check_pictures(pictures: np.ndarray, what: str) -> None:
    shape = pictures.shape
    if len(shape) != 4 or shape[1] != 3 or shape[2] != shape[3] or not pictures.size:
        raise InputError(
            f"{what} pictures: got shape {shape}, expected (pictures, 3, side, side) with at "
            "least one picture"
        )
    if pictures.dtype not in (np.float32, np.float64):
        raise InputError(f"{what} pictures: got {pictures.dtype}, expected float32 in [0, 1]")
    # Comparisons with NaN are false.
    inside = (pictures >= -_OVERSHOOT) & (pictures <= 1 + _OVERSHOOT)
    broken = np.flatnonzero(~inside.all(axis=(1, 2, 3)))
    if len(broken):
        raise InputError(
            f"{what} pictures {broken.tolist()}: got values that are not finite or outside of 0..1"
        )
