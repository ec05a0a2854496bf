"""Metrics of pictures: against NumPy's corrcoef, loops, and their values by definition."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from mindeye_dist.evaluation import image_metrics
from mindeye_dist.evaluation.image_metrics import correlation, pixcorr, ssim, two_way

BLOCK = 4


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Cut even small sets into several blocks: of 4 pictures of 40 features, or of one picture."""
    monkeypatch.setattr(image_metrics, "BLOCK_VALUES", BLOCK * 40)


def pictures(count, side=24, seed=0):
    return np.random.default_rng(seed).random((count, 3, side, side))


def pair(count, features=40, noise=2.0):
    generator = np.random.default_rng(1)
    seen = generator.standard_normal((count, features))
    return seen, seen + noise * generator.standard_normal((count, features))


def test_pixcorr_is_pearsons_r_of_all_values():
    """Oracle: np.corrcoef, pair by pair, over a count that is no multiple of the block."""
    seen = pictures(BLOCK + 3)
    recon = 0.3 * seen + 0.7 * pictures(BLOCK + 3, seed=1)
    expected = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(seen, recon, strict=True)]
    np.testing.assert_allclose(pixcorr(seen, recon), expected, atol=1e-12)


def test_a_flat_picture_correlates_with_nothing():
    seen = pictures(3)
    flat = np.full_like(seen, 0.1)
    np.testing.assert_array_equal(pixcorr(seen, flat), 0)
    np.testing.assert_array_equal(two_way(seen, flat), 0)


def test_ssim_follows_its_formula():
    """Oracle: Wang et al.'s equation on Gaussian-weighted moments, without the 5-pixel border."""
    seen, recon = pictures(2), pictures(2, seed=1) * 0.5 + 0.2
    weights = np.array([0.2125, 0.7154, 0.0721])
    expected = []
    for a, b in zip(seen, recon, strict=True):
        x, y = np.tensordot(weights, a, 1), np.tensordot(weights, b, 1)
        blur = lambda image: gaussian_filter(image, 1.5, truncate=3.5)  # noqa: E731
        mean_x, mean_y = blur(x), blur(y)
        var_x, var_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
        covariance = blur(x * y) - mean_x * mean_y
        top = (2 * mean_x * mean_y + 0.01**2) * (2 * covariance + 0.03**2)
        bottom = (mean_x**2 + mean_y**2 + 0.01**2) * (var_x + var_y + 0.03**2)
        expected.append((top / bottom)[5:-5, 5:-5].mean())
    np.testing.assert_allclose(ssim(seen, recon), expected, atol=1e-10)
    np.testing.assert_allclose(ssim(seen, seen), 1)


def test_two_way_is_the_double_loop():
    """Oracle: every comparison written out with np.corrcoef."""
    count = 4 * BLOCK + 1
    seen, recon = pair(count)
    wins = np.zeros(count)
    for j in range(count):
        own = np.corrcoef(seen[j], recon[j])[0, 1]
        for i in range(count):
            wins[j] += i != j and np.corrcoef(seen[i], recon[j])[0, 1] < own
    shares = two_way(seen, recon)
    np.testing.assert_allclose(shares, wins / (count - 1))
    assert 0.5 < shares.mean() < 1


def test_two_way_keeps_the_reconstruction_and_changes_the_picture():
    """Two pictures, two reconstructions both like the first: only the first is identified."""
    seen = np.array([[0.0, 1.0, 2.0], [2.0, 0.0, 1.0]])
    np.testing.assert_array_equal(two_way(seen, seen[[0, 0]]), [1, 0])


def test_equal_pictures_tie_and_a_tie_counts_against():
    seen, recon = pair(BLOCK + 1)
    np.testing.assert_array_equal(two_way(np.repeat(seen[:1], len(seen), 0), recon), 0)
    shuffled = two_way(*pair(400, noise=1e6))
    assert abs(shuffled.mean() - 0.5) < 0.05


def test_features_of_any_shape():
    seen, recon = pair(6)
    square = (6, 2, 4, 5)
    np.testing.assert_array_equal(
        two_way(seen.reshape(square), recon.reshape(square)), two_way(seen, recon)
    )
    np.testing.assert_array_equal(
        correlation(seen.reshape(square), recon.reshape(square)), correlation(seen, recon)
    )


@pytest.mark.parametrize("metric", [pixcorr, ssim])
def test_what_does_not_pair_is_named(metric):
    with pytest.raises(ValueError, match=r"\(2, 3, 24, 24\) of reconstructions for \(3, 3, 24, 24"):
        metric(pictures(3), pictures(2))


def test_what_is_not_finite_or_too_few_is_an_error():
    seen = pictures(2)
    broken = seen.copy()
    broken[1, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="reconstructed pictures: got a value that is not finite"):
        pixcorr(seen, broken)
    with pytest.raises(ValueError, match="values from .* to 255, expected 0 to 1"):
        ssim(seen, seen * 255 / seen.max())
    with pytest.raises(ValueError, match="got 1 pictures, expected at least 2"):
        two_way(seen[:1], seen[:1])
