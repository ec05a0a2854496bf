"""Metrics of reconstructed pictures: pure functions of pictures or of their features.

In: seen and reconstructed pictures (pictures, 3, height, width), or features (pictures, ...). Out:
one value per picture, in the same order; the caller takes means and intervals. The correlation of
a constant picture, or of constant features, counts as 0. Scotti et al. (2023), section 4.2.
"""

import math
from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float

from mindeye_dist.errors import InputError

BLOCK_VALUES = 2**24
"""Largest number of feature values that are converted to float64 at once (128 MiB)."""

# (pictures, 3, height, width) and (pictures, ...); _check_pairs compares the shapes of a pair.
Pictures = Float[np.ndarray, "_ 3 _ _"]
Features = Float[np.ndarray, "_ ..."]
PerPicture = Float[np.ndarray, " pictures"]


def pixcorr(seen: Pictures, recon: Pictures) -> PerPicture:
    """Return Pearson's r of all pixels and colours of each pair (published at 425 x 425).

    Raises:
        InputError: the shapes differ.
    """
    return correlation(seen, recon)


def correlation(seen: Features, recon: Features) -> PerPicture:
    """Return Pearson's r of each pair's features; 1 - r is the published correlation distance.

    Raises:
        InputError: the shapes differ.
    """
    _check_pairs(seen, recon)
    r = np.zeros(len(seen))
    for block in _blocks(seen):
        r[block] = (_standardise(seen[block]) * _standardise(recon[block])).sum(axis=1)
    return r


def ssim(seen: Pictures, recon: Pictures) -> PerPicture:
    """Return the structural similarity of each pair of pictures in [0, 1], converted to grey.

    Luminance by ITU-R 709, Gaussian window of sigma 1.5, population covariance (Wang et al. 2004;
    published at 425 x 425).

    Raises:
        InputError: the shapes differ, values are outside [0, 1], or the pictures are smaller than
            the window of 11 pixels.
    """
    from skimage.color import rgb2gray
    from skimage.metrics import structural_similarity

    _check_pairs(seen, recon)
    for values in (seen, recon):
        if values.size and not 0 <= values.min() <= values.max() <= 1:
            span = f"{values.min():.3g} to {values.max():.3g}"
            raise InputError(f"ssim: got pictures with values from {span}, expected 0 to 1")
    return np.array(
        [
            structural_similarity(
                rgb2gray(a.astype(np.float64), channel_axis=0),
                rgb2gray(b.astype(np.float64), channel_axis=0),
                gaussian_weights=True,
                sigma=1.5,
                use_sample_covariance=False,
                data_range=1.0,
            )
            for a, b in zip(seen, recon, strict=True)
        ],
        dtype=np.float64,
    )


def two_way(features_seen: Features, features_recon: Features) -> PerPicture:
    """Return each reconstruction's two-way identification accuracy (0..1, chance 0.5).

    It is the fraction of the other seen pictures whose features correlate less with the
    reconstruction's than the features of its own seen picture do. The distractors are seen
    pictures, as in the published code; a tie counts as an error.

    Raises:
        InputError: the shapes differ, or there are fewer than two pictures.
    """
    _check_pairs(features_seen, features_recon)
    count = len(features_seen)
    if count < 2:
        raise InputError(f"two_way: got {count} pictures, expected at least 2")
    # Equal pictures have the same r up to rounding, and must tie.
    truth = correlation(features_seen, features_recon) - 1e-12
    beaten = np.zeros(count)
    for block in _blocks(features_recon):
        recon = _standardise(features_recon[block])
        for others in _blocks(features_seen):
            r = _standardise(features_seen[others]) @ recon.T
            beaten[block] += (r < truth[block]).sum(axis=0)
    return beaten / (count - 1)


def varies(features: Features) -> Bool[np.ndarray, " pictures"]:
    """Return True for each picture whose features are not constant."""
    result = np.zeros(len(features), bool)
    for block in _blocks(features):
        result[block] = _standardise(features[block]).any(axis=1)
    return result


def _blocks(features: Features) -> Iterator[slice]:
    """Yield slices of pictures with at most `BLOCK_VALUES` feature values each."""
    size = max(1, BLOCK_VALUES // max(1, math.prod(features.shape[1:])))
    for start in range(0, len(features), size):
        yield slice(start, start + size)


def _standardise(features: Features) -> Float[np.ndarray, "pictures flat"]:
    """Return each picture's features flattened, centred and of unit norm; zeros if constant."""
    flat = features.reshape(len(features), -1).astype(np.float64)
    # A constant less its mean leaves rounding errors, which must not count as a pattern.
    tolerance = max(1e-12, 8 * float(np.finfo(features.dtype).eps))
    rounding = tolerance * np.linalg.norm(flat, axis=1, keepdims=True)
    flat -= flat.mean(axis=1, keepdims=True)
    norm = np.linalg.norm(flat, axis=1, keepdims=True)
    return np.divide(flat, norm, out=np.zeros_like(flat), where=norm > rounding)


def _check_pairs(seen: np.ndarray, recon: np.ndarray) -> None:
    if seen.shape != recon.shape:
        raise InputError(f"got {recon.shape} of reconstructions for {seen.shape} of seen pictures")
    for name, values in (("seen", seen), ("reconstructed", recon)):
        if not np.isfinite(values).all():
            raise InputError(f"{name} pictures: got a value that is not finite")
