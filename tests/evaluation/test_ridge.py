"""The ridge baseline is ridge regression, and its penalty is the val split's choice."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from mindeye_dist.evaluation.ridge import fit_ridge


@pytest.mark.parametrize("num_voxels", [10, 60])
def test_it_is_ridge_with_an_intercept(num_voxels):
    """Oracle: scikit-learn's primal Ridge for every penalty, the best one picked in a loop."""
    generator = np.random.default_rng(0)
    voxels = 3 + generator.standard_normal((50, num_voxels)).astype(np.float32)
    targets = voxels[:, :4] @ generator.standard_normal((4, 5)).astype(np.float32) - 2
    noise = generator.standard_normal((50, 5)).astype(np.float32)
    parts = (voxels[:30], (targets + noise)[:30], voxels[30:40], targets[30:40])
    penalties = (0.1, 10.0, 1000.0)
    fits = [Ridge(alpha=penalty).fit(*parts[:2]) for penalty in penalties]
    errors = [np.mean((fit.predict(parts[2]) - parts[3]) ** 2) for fit in fits]
    expected = fits[int(np.argmin(errors))].predict(voxels[40:])
    found = fit_ridge(*parts, penalties).predict(voxels[40:])
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_no_finite_error_is_said():
    bad = np.full((3, 2), np.inf, np.float32)
    good = np.ones((3, 2), np.float32)
    with pytest.raises(ValueError, match="ridge: no penalty gave a finite error"):
        fit_ridge(good, good, good, bad)
