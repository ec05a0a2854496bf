"""Scene factors: kind, colour and place of the object, read out of pictures of rendered scenes.

The truth about a rendered scene is known, so that a reconstruction can be asked whether it shows
the right object, in the right colour, at the right place. The judge is linear, on features that it
was not trained for, and learns from true pictures of the training split; its accuracy on true
pictures of the test split is the ceiling. It sees pictures as small as reconstructions are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int
from torch.nn import functional

from mindeye_dist.errors import InputError
from mindeye_dist.frozen.efficientnet import EfficientNetLite0
from mindeye_dist.frozen.projection import fit_projection
from mindeye_dist.metrics import bootstrap_interval
from mindeye_dist.randomness import numpy_generator
from mindeye_dist.simulation.scenes import PLACES

FACTORS = ("kind", "color", "place")
ENCODED_SIDE = 224
"""Pixels that the encoder sees each way: a map of 7 x 7."""
BATCH = 8
COMPONENTS = 20
"""Principal components of a map's channels that the place is read from."""
COLOR_LEVELS = 5
"""Levels of each channel in the histogram of colours."""
COLOR_REACH = 0.08
"""Standard deviation of the window around the place where colours are counted, in sides."""
PENALTIES = tuple(float(10.0**power) for power in range(-6, 0))
"""Ridge penalties to choose from, as a share of the pictures' mean square."""
HELD_OUT = 5
"""One picture of so many is held out of training while the penalty is chosen."""

Pictures = Float[np.ndarray, "pictures 3 height width"]
Rows = Float[np.ndarray, "pictures features"]


def shrunk(pictures: Pictures, side: int) -> Float32[np.ndarray, "pictures 3 {side} {side}"]:
    """Average pictures down to `side` x `side`; smaller ones are scaled up bilinearly."""
    images = torch.from_numpy(pictures).float()
    if min(images.shape[2:]) >= side:
        return functional.interpolate(images, (side, side), mode="area").numpy()
    return functional.interpolate(images, (side, side), mode="bilinear").numpy()


@dataclass(frozen=True, kw_only=True)
class FactorFeatures:
    """What the judge sees of pictures.

    Attributes:
        pooled: the encoder's pooled vectors.
        grid: principal components of its maps.
        pixels: the pictures at the side of reconstructions.
    """

    pooled: Float32[np.ndarray, "pictures channels"]
    grid: Float32[np.ndarray, "pictures values"]
    pixels: Float32[np.ndarray, "pictures 3 side side"]


class FactorEye:
    """Sees pictures as the judge does: through `side` x `side` pixels, then by EfficientNet-Lite0.

    Args:
        encoder: whose last map is read.
        pictures: to whose maps the principal components are fitted, some hundred are enough.
        side: of reconstructions (pixels).

    Raises:
        InputError: there are not more pictures than components, or values are not finite.
    """

    def __init__(self, encoder: EfficientNetLite0, pictures: Pictures, side: int = 64) -> None:
        self._encoder, self.side = encoder, side
        maps = self._maps(shrunk(pictures, side))
        projection = fit_projection([torch.cat([maps.mean(1, keepdim=True), maps], 1)], COMPONENTS)
        self._mean, self._basis = projection.map_mean, projection.map_basis

    def __call__(self, pictures: Pictures) -> FactorFeatures:
        """Return the features of pictures in [0, 1].

        Raises:
            InputError: values are not finite.
        """
        pixels, pooled, grids = shrunk(pictures, self.side), [], []
        for start in range(0, len(pixels), BATCH):
            maps = self._maps(pixels[start : start + BATCH])
            pooled.append(maps.mean(dim=1))
            grids.append(((maps - self._mean) @ self._basis).flatten(1))
        return FactorFeatures(
            pooled=torch.cat(pooled).numpy(), grid=torch.cat(grids).numpy(), pixels=pixels
        )

    def _maps(
        self, pixels: Float32[np.ndarray, "pictures 3 side side"]
    ) -> Float[torch.Tensor, "pictures places channels"]:
        broken = np.flatnonzero(~np.isfinite(pixels).all(axis=(1, 2, 3)))
        if len(broken):
            raise InputError(f"pictures {broken.tolist()}: got values that are not finite")
        maps = []
        for batch in torch.from_numpy(pixels).split(BATCH):
            large = functional.interpolate(batch, (ENCODED_SIDE, ENCODED_SIDE), mode="bicubic")
            maps.append(self._encoder.feature_map(large.clamp(0, 1)).cpu())
        return torch.cat(maps)


@dataclass(frozen=True)
class LinearReader:
    """Ridge regression onto one column a label; the largest column is read.

    Attributes:
        labels: names of the columns.
        mean: of the features.
        weights: of the centred features.
        bias: share of each label in training.
        penalty: that was chosen.
    """

    labels: tuple[str, ...]
    mean: Float[np.ndarray, " features"]
    weights: Float[np.ndarray, "features labels"]
    bias: Float[np.ndarray, " labels"]
    penalty: float

    def columns(self, features: Rows) -> Int[np.ndarray, " pictures"]:
        """Return the number of the label that is read for each picture."""
        return ((features - self.mean) @ self.weights + self.bias).argmax(axis=1)

    def __call__(self, features: Rows) -> list[str]:
        """Return the label that is read for each picture."""
        return [self.labels[column] for column in self.columns(features)]


def fit_linear_reader(features: Rows, truth: Sequence[str]) -> LinearReader:
    """Fit all pictures by the penalty that reads most of the held-out ones right.

    Raises:
        InputError: there are not as many labels as pictures, too few, or only one label.
    """
    labels = tuple(sorted(set(truth)))
    if len(features) != len(truth) or len(truth) < HELD_OUT or len(labels) < 2:
        raise InputError(
            f"got {len(truth)} labels of {len(labels)} kinds for {len(features)} pictures, "
            f"expected one a picture, at least {HELD_OUT}, and at least two kinds"
        )
    wanted = np.array([labels.index(label) for label in truth])
    held = np.arange(len(truth)) % HELD_OUT == 0
    candidates = _ridges(features[~held], wanted[~held], labels, PENALTIES)
    right = [int((r.columns(features[held]) == wanted[held]).sum()) for r in candidates]
    best = PENALTIES[int(np.argmax(right))]
    return _ridges(features, wanted, labels, (best,))[0]


def _ridges(
    features: Rows,
    wanted: Int[np.ndarray, " pictures"],
    labels: tuple[str, ...],
    penalties: Sequence[float],
) -> list[LinearReader]:
    """Return the fit by each penalty, from one decomposition of the features' covariance."""
    targets = np.eye(len(labels))[wanted]
    mean, bias = features.mean(axis=0, dtype=np.float64), targets.mean(axis=0)
    centred = features - mean
    values, vectors = np.linalg.eigh(centred.T @ centred)
    rotated = vectors.T @ (centred.T @ (targets - bias))
    scale = np.maximum(values, 0)
    return [
        LinearReader(
            labels,
            mean,
            vectors @ (rotated / (scale + penalty * scale.sum())[:, None]),
            bias,
            penalty,
        )
        for penalty in penalties
    ]


class FactorReader:
    """Reads kind, colour and place of a scene's object out of pictures.

    Args:
        eye: that saw the training pictures.
        features: of these.
        factors: the truth about them.

    Raises:
        InputError: there are not as many truths as pictures, or one lacks a factor.
    """

    def __init__(
        self, eye: FactorEye, features: FactorFeatures, factors: Sequence[Mapping[str, str]]
    ) -> None:
        truth = _by_factor(factors)
        self._eye = eye
        self._kind = fit_linear_reader(features.pooled, truth["kind"])
        self._place = fit_linear_reader(features.grid, truth["place"])
        # What a histogram says of the object's colour depends on which object it is.
        spread = np.sqrt(features.pooled.var(axis=0).sum())
        self._pooled_scale = float(1 / spread) if spread > 0 else 0.0
        self._color = fit_linear_reader(
            self._color_features(features, truth["place"]), truth["color"]
        )

    def __call__(self, pictures: Pictures) -> dict[str, list[str]]:
        """Return the labels of pictures in [0, 1], by factor."""
        return self.read(self._eye(pictures))

    def read(self, features: FactorFeatures) -> dict[str, list[str]]:
        """Return the labels of pictures that the eye saw; colours at the place that is read."""
        places = self._place(features.grid)
        return {
            "kind": self._kind(features.pooled),
            "color": self._color(self._color_features(features, places)),
            "place": places,
        }

    def _color_features(self, features: FactorFeatures, places: Sequence[str]) -> Rows:
        centres = np.array([PLACES[place] for place in places])
        # Square roots of shares: each histogram has norm 1, as the pooled vectors have about.
        histograms = np.sqrt(color_histograms(features.pixels, centres))
        return np.concatenate([histograms, features.pooled * self._pooled_scale], axis=1)


def fit_factor_reader(
    encoder: EfficientNetLite0,
    pictures: Pictures,
    factors: Sequence[Mapping[str, str]],
    *,
    side: int = 64,
) -> FactorReader:
    """Fit a judge to true pictures in [0, 1] and their factors.

    Args:
        encoder: by whose features pictures are seen.
        pictures: some thousand; they may be `shrunk` already.
        factors: kind, color and place of each.
        side: of reconstructions (pixels).

    Raises:
        InputError: there are not as many truths as pictures, or one lacks a factor.
    """
    if len(pictures) != len(factors):
        raise InputError(f"got {len(factors)} truths for {len(pictures)} pictures")
    eye = FactorEye(encoder, pictures[:256], side)
    return FactorReader(eye, eye(pictures), factors)


def color_histograms(
    pixels: Float32[np.ndarray, "pictures 3 side side"], centres: Float[np.ndarray, "pictures 2"]
) -> Float[np.ndarray, "pictures bins"]:
    """Return the share of each colour around a place, softly counted.

    Each pixel counts by a Gaussian window around its picture's centre (across, down; in sides), and
    divides itself between the eight nearest of `COLOR_LEVELS`^3 colours.
    """
    count, side = len(pixels), pixels.shape[-1]
    grid = (np.arange(side) + 0.5) / side
    across, down = (np.exp(-(((grid - c[:, None]) / COLOR_REACH) ** 2) / 2) for c in centres.T)
    window = (down[:, :, None] * across[:, None, :]).reshape(count, -1)
    window /= window.sum(axis=1, keepdims=True)
    level = np.clip(pixels, 0, 1).reshape(count, 3, -1) * (COLOR_LEVELS - 1)
    below = np.minimum(level.astype(np.int64), COLOR_LEVELS - 2)
    above_share = level - below
    bins = COLOR_LEVELS**3
    start = np.arange(count)[:, None] * bins
    histograms = np.zeros(count * bins)
    for corner in np.ndindex(2, 2, 2):
        index, weight = np.zeros_like(below[:, 0]), window
        for channel, up in enumerate(corner):
            share = above_share[:, channel]
            index = index * COLOR_LEVELS + below[:, channel] + up
            weight = weight * (share if up else 1 - share)
        histograms += np.bincount((start + index).ravel(), weight.ravel(), len(histograms))
    return histograms.reshape(count, bins)


def factor_scores(
    read: Mapping[str, Sequence[str]],
    truth: Sequence[Mapping[str, str]],
    seed: int = 0,
    *,
    shuffled: bool = False,
) -> dict[str, dict[str, Any]]:
    """Return the share of pictures whose kind, color, place, and all three, are right.

    Each with its mean and 95 % bootstrap interval over pictures. Shuffled, each reading is held
    against the truths of all other pictures: the mean of every way to deal them out. Its interval
    is over pictures too: readings and truths are drawn together.

    Raises:
        InputError: there are not as many readings as truths, or a truth lacks a factor.
    """
    wanted = _by_factor(truth)
    right = {}
    for factor in FACTORS:
        if len(read[factor]) != len(truth) or not len(truth):
            raise InputError(f"{factor}: got {len(read[factor])} readings for {len(truth)} truths")
        right[factor] = np.array(read[factor])[:, None] == np.array(wanted[factor])
    if shuffled and len(truth) < 2:
        raise InputError(f"shuffled: got {len(truth)} picture, expected at least 2")
    right["all"] = np.logical_and.reduce(list(right.values()))
    scores = {}
    for factor, hits in right.items():
        generator = numpy_generator(seed, "bootstrap", factor)
        own = hits.diagonal().astype(float)
        if shuffled:
            mean = float((hits.sum() - own.sum()) / (len(own) * (len(own) - 1)))
            interval = _shuffled_interval(hits, generator)
        else:
            mean, interval = float(own.mean()), bootstrap_interval(own, generator)
        scores[factor] = {"mean": mean, "ci": list(interval)}
    return scores


def _shuffled_interval(
    hits: Bool[np.ndarray, "readings truths"], generator: np.random.Generator, draws: int = 2000
) -> tuple[float, float]:
    """Return the 95 % percentile interval of the share of hits between different pictures.

    A picture that is drawn more than once is none of its own others; a draw of one alone has none.
    """
    count = len(hits)
    pairs = hits & ~np.eye(count, dtype=bool)
    picks = generator.integers(0, count, (draws, count))
    often = np.stack([np.bincount(row, minlength=count) for row in picks]).astype(float)
    hit, possible = ((often @ pairs) * often).sum(axis=1), count**2 - (often**2).sum(axis=1)
    low, high = np.percentile((hit / possible.clip(1))[possible > 0], [2.5, 97.5])
    return float(low), float(high)


def _by_factor(factors: Sequence[Mapping[str, str]]) -> dict[str, list[str]]:
    for number, truth in enumerate(factors):
        if missing := [factor for factor in FACTORS if factor not in truth]:
            raise InputError(f"picture {number}: its truth {dict(truth)} lacks {missing}")
    return {factor: [truth[factor] for truth in factors] for factor in FACTORS}
