"""Ridge regression from voxels to clip_tokens: the linear baseline that a decoder has to beat.

Fitted on the same training responses (repeats averaged), its penalty chosen by the error on the val
split.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from sklearn.linear_model import Ridge

PENALTIES = tuple(float(10.0**power) for power in range(0, 7))


def fit_ridge(
    voxels: Float[np.ndarray, "pictures voxels"],
    targets: Float[np.ndarray, "pictures features"],
    val_voxels: Float[np.ndarray, "val_pictures voxels"],
    val_targets: Float[np.ndarray, "val_pictures features"],
    penalties: Sequence[float] = PENALTIES,
) -> Ridge:
    """Return the fit with the smallest mean squared error on the val split."""
    best, best_error = None, np.inf
    for penalty in penalties:
        # Cholesky on the smaller of voxels and pictures; far faster than the default on wide data.
        model = Ridge(alpha=penalty, solver="cholesky").fit(voxels, targets)
        error = float(np.mean((model.predict(val_voxels) - val_targets) ** 2))
        if error < best_error:
            best, best_error = model, error
    if best is None:
        raise ValueError("ridge: no penalty gave a finite error on the val split")
    return best
