"""Scene factors: kind, colour and place of the object, classified from pictures of scenes.

In: pictures (pictures, 3, height, width). Out: a label for each factor, and accuracies. The true
factors of a rendered scene are known, so that a reconstruction can be checked for the right object
in the right colour at the right place. The classifier is linear on frozen features and is fitted to
true pictures of the training split, scaled to the reconstructions' size; its accuracy on the true
pictures of the test split is the ceiling.
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
"""Side of the encoder's input in pixels; its map has 7 x 7 positions."""
BATCH = 8
MAP_COMPONENTS = 20
"""Number of principal components of the map's channels that predict the place."""
COLOR_LEVELS = 5
"""Number of levels of each channel in the colour histogram."""
COLOR_REACH = 0.08
"""Standard deviation of the histogram's spatial window, as a fraction of the picture's side."""
RELATIVE_PENALTIES = tuple(float(10.0**power) for power in range(-6, 0))
"""Candidate ridge penalties, as fractions of the features' total variance."""
HELD_OUT = 5
"""Every HELD_OUT-th picture is held out to choose the penalty."""

Pictures = Float[np.ndarray, "pictures 3 height width"]
Rows = Float[np.ndarray, "pictures features"]


def shrink(pictures: Pictures, side: int) -> Float32[np.ndarray, "pictures 3 {side} {side}"]:
    """Average pictures down to `side` x `side`; smaller ones are scaled up bilinearly."""
    images = torch.from_numpy(pictures).float()
    if min(images.shape[2:]) >= side:
        return functional.interpolate(images, (side, side), mode="area").numpy()
    return functional.interpolate(images, (side, side), mode="bilinear").numpy()


@dataclass(frozen=True, kw_only=True)
class FactorFeatures:
    """Features of pictures, one set for each factor.

    Attributes:
        pooled: the encoder's pooled vectors, for kind and colour.
        grid: principal components of its maps, for the place.
        pixels: the pictures at the reconstructions' size, for the colour.
    """

    pooled: Float32[np.ndarray, "pictures channels"]
    grid: Float32[np.ndarray, "pictures values"]
    pixels: Float32[np.ndarray, "pictures 3 side side"]


class FactorEncoder:
    """Computes `FactorFeatures`: scales pictures to `side` x `side`, then EfficientNet-Lite0.

    Args:
        encoder: network whose last map is used.
        pictures: pictures to fit the principal components to; some hundred are enough.
        side: side of the reconstructions, in pixels.

    Raises:
        InputError: there are not more pictures than components, or values are not finite.
    """

    def __init__(self, encoder: EfficientNetLite0, pictures: Pictures, side: int = 64) -> None:
        self._encoder, self.side = encoder, side
        maps = self._maps(shrink(pictures, side))
        projection = fit_projection(
            [torch.cat([maps.mean(1, keepdim=True), maps], 1)], MAP_COMPONENTS
        )
        self._mean, self._basis = projection.map_mean, projection.map_basis

    def __call__(self, pictures: Pictures) -> FactorFeatures:
        """Return the features of pictures in [0, 1].

        Raises:
            InputError: values are not finite.
        """
        pixels, pooled, grids = shrink(pictures, self.side), [], []
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
class RidgeClassifier:
    """Ridge regression onto one-hot labels; the largest output is the predicted label.

    Attributes:
        labels: label of each output.
        mean: mean of the training features.
        weights: weights of the centred features.
        bias: frequency of each label in training (0..1).
        penalty: chosen ridge penalty.
    """

    labels: tuple[str, ...]
    mean: Float[np.ndarray, " features"]
    weights: Float[np.ndarray, "features labels"]
    bias: Float[np.ndarray, " labels"]
    penalty: float

    def columns(self, features: Rows) -> Int[np.ndarray, " pictures"]:
        """Return the index of each picture's predicted label."""
        return ((features - self.mean) @ self.weights + self.bias).argmax(axis=1)

    def __call__(self, features: Rows) -> list[str]:
        """Return each picture's predicted label."""
        return [self.labels[column] for column in self.columns(features)]


def fit_ridge_classifier(features: Rows, truth: Sequence[str]) -> RidgeClassifier:
    """Fit a classifier, with the penalty of the highest accuracy on held-out pictures.

    Raises:
        InputError: there are not as many labels as pictures, fewer than `HELD_OUT` pictures, or
            only one distinct label.
    """
    labels = tuple(sorted(set(truth)))
    if len(features) != len(truth) or len(truth) < HELD_OUT or len(labels) < 2:
        raise InputError(
            f"got {len(truth)} labels of {len(labels)} kinds for {len(features)} pictures, "
            f"expected one a picture, at least {HELD_OUT}, and at least two kinds"
        )
    wanted = np.array([labels.index(label) for label in truth])
    held_out = np.arange(len(truth)) % HELD_OUT == 0
    fits = _fit_penalties(features[~held_out], wanted[~held_out], labels, RELATIVE_PENALTIES)
    right = [int((f.columns(features[held_out]) == wanted[held_out]).sum()) for f in fits]
    best = RELATIVE_PENALTIES[int(np.argmax(right))]
    return _fit_penalties(features, wanted, labels, (best,))[0]


def _fit_penalties(
    features: Rows,
    wanted: Int[np.ndarray, " pictures"],
    labels: tuple[str, ...],
    penalties: Sequence[float],
) -> list[RidgeClassifier]:
    """Fit a classifier for each penalty, from one eigendecomposition of the covariance."""
    targets = np.eye(len(labels))[wanted]
    mean, bias = features.mean(axis=0, dtype=np.float64), targets.mean(axis=0)
    centred = features - mean
    values, vectors = np.linalg.eigh(centred.T @ centred)
    rotated = vectors.T @ (centred.T @ (targets - bias))
    scale = np.maximum(values, 0)
    return [
        RidgeClassifier(
            labels,
            mean,
            vectors @ (rotated / (scale + penalty * scale.sum())[:, None]),
            bias,
            penalty,
        )
        for penalty in penalties
    ]


class FactorClassifier:
    """Classifies kind, colour and place of the object in pictures of scenes.

    Args:
        encoder: computes the features.
        features: features of the training pictures.
        factors: true factors of the training pictures.

    Raises:
        InputError: there are not as many truths as pictures, or one lacks a factor.
    """

    def __init__(
        self, encoder: FactorEncoder, features: FactorFeatures, factors: Sequence[Mapping[str, str]]
    ) -> None:
        truth = _by_factor(factors)
        self._encoder = encoder
        self._kind = fit_ridge_classifier(features.pooled, truth["kind"])
        self._place = fit_ridge_classifier(features.grid, truth["place"])
        # The kind of the object is a feature too: colours are distributed differently on each kind.
        spread = np.sqrt(features.pooled.var(axis=0).sum())
        self._pooled_scale = float(1 / spread) if spread > 0 else 0.0
        self._color = fit_ridge_classifier(
            self._color_features(features, truth["place"]), truth["color"]
        )

    def __call__(self, pictures: Pictures) -> dict[str, list[str]]:
        """Return the predicted labels of pictures in [0, 1], by factor."""
        features = self._encoder(pictures)
        places = self._place(features.grid)  # the colour is read there
        return {
            "kind": self._kind(features.pooled),
            "color": self._color(self._color_features(features, places)),
            "place": places,
        }

    def _color_features(self, features: FactorFeatures, places: Sequence[str]) -> Rows:
        centres = np.array([PLACES[place] for place in places])
        # Square roots: each histogram then has norm 1, about as the scaled pooled vectors have.
        histograms = np.sqrt(color_histograms(features.pixels, centres))
        return np.concatenate([histograms, features.pooled * self._pooled_scale], axis=1)


def fit_factor_classifier(
    encoder: EfficientNetLite0,
    pictures: Pictures,
    factors: Sequence[Mapping[str, str]],
    *,
    side: int = 64,
) -> FactorClassifier:
    """Fit a classifier to true pictures in [0, 1] and their factors.

    Args:
        encoder: network of the features.
        pictures: about a thousand pictures of scenes, of any size.
        factors: kind, color and place of each picture.
        side: side of the reconstructions, in pixels.

    Raises:
        InputError: there are not as many truths as pictures, or one lacks a factor.
    """
    if len(pictures) != len(factors):
        raise InputError(f"got {len(factors)} truths for {len(pictures)} pictures")
    factor_encoder = FactorEncoder(encoder, pictures[:256], side)
    return FactorClassifier(factor_encoder, factor_encoder(pictures), factors)


def color_histograms(
    pixels: Float32[np.ndarray, "pictures 3 side side"], centres: Float[np.ndarray, "pictures 2"]
) -> Float[np.ndarray, "pictures bins"]:
    """Return normalised colour histograms around the given centres.

    Pixels are weighted by a Gaussian window around the picture's centre (across, down; as fractions
    of the side), and divided linearly among the eight nearest of `COLOR_LEVELS`^3 colours.
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
    """Return the accuracy of kind, color, place and all three, with 95 % intervals (0..1).

    The intervals are bootstrapped over pictures. With `shuffled`, each reading is compared with the
    truths of all other pictures, which gives the mean over all derangements; its bootstrap draws
    readings and truths together.

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
    """Return the 95 % bootstrap interval of the fraction of hits between different pictures.

    Pairs of a picture with itself are left out, also if it is drawn twice; so are draws of a single
    picture.
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
