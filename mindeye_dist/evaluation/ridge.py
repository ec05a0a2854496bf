"""Ridge regression from voxels to targets: the linear baseline of every evaluation.

In: training responses (pictures, voxels), averaged over repeats, and targets (pictures, features).
Out: predicted targets (brains, features). The dual form is solved: with K = X X^T of the centred
responses X and centred targets Y, the coefficients are a = (K + penalty I)^-1 Y. The primal form
would need a coefficient for each voxel and feature (12 GB at MindEye's full size) instead of each
picture and feature. One eigendecomposition of K serves all penalties; the val split chooses one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from mindeye_dist.data.dataset import Dataset
from mindeye_dist.errors import InputError

PENALTIES = tuple(float(10.0**power) for power in range(0, 7))


@dataclass(frozen=True)
class Ridge:
    """A fitted model.

    Attributes:
        voxels: centred training responses X.
        dual: dual coefficients a.
        voxel_mean: mean training response.
        target_mean: mean training target.
    """

    voxels: Float[np.ndarray, "pictures voxels"]
    dual: Float[np.ndarray, "pictures features"]
    voxel_mean: Float[np.ndarray, " voxels"]
    target_mean: Float[np.ndarray, " features"]

    def predict(
        self, voxels: Float[np.ndarray, "brains voxels"]
    ) -> Float[np.ndarray, "brains features"]:
        """Return the predicted targets, x X^T a + mean, of responses x less their mean."""
        return (voxels - self.voxel_mean) @ self.voxels.T @ self.dual + self.target_mean


def fit_ridge(
    voxels: Float[np.ndarray, "pictures voxels"],
    targets: Float[np.ndarray, "pictures features"],
    val_voxels: Float[np.ndarray, "val_pictures voxels"],
    val_targets: Float[np.ndarray, "val_pictures features"],
    penalties: Sequence[float] = PENALTIES,
) -> Ridge:
    """Fit ridge regression, with the penalty of the smallest mean squared error on the val split.

    Raises:
        InputError: no penalty gives a finite error.
    """
    voxel_mean, target_mean = voxels.mean(axis=0), targets.mean(axis=0)
    centred = voxels - voxel_mean
    values, vectors = np.linalg.eigh(centred @ centred.T)  # K = V diag(values) V^T
    rotated = vectors.T @ (targets - target_mean)
    val_kernel = (val_voxels - voxel_mean) @ centred.T @ vectors
    wanted = val_targets - target_mean
    errors = [
        float(np.mean((val_kernel @ _shrink(rotated, values, penalty) - wanted) ** 2))
        for penalty in penalties
    ]
    if not np.isfinite(errors).any():
        raise InputError("ridge: no penalty gave a finite error on the val split")
    best = penalties[int(np.nanargmin(errors))]
    dual = vectors @ _shrink(rotated, values, best)
    return Ridge(voxels=centred, dual=dual, voxel_mean=voxel_mean, target_mean=target_mean)


def _shrink(rotated: np.ndarray, values: np.ndarray, penalty: float) -> np.ndarray:
    # Rounding leaves the smallest eigenvalues of a kernel a little below 0.
    return rotated / (np.maximum(values, 0) + penalty)[:, None].astype(rotated.dtype)


def ridge_predictions(
    train: Dataset, val: Dataset, kind: str, voxels: Float[np.ndarray, "brains voxels"]
) -> Float[np.ndarray, "brains features"]:
    """Fit ridge regression to a kind of target of two splits, and return its predictions, flat."""
    targets = [split.all_targets(kind) for split in (train, val)]
    flat, val_flat = (rows.reshape(len(rows), -1) for rows in targets)
    model = fit_ridge(train.averages(), flat, val.averages(), val_flat)
    prediction: np.ndarray = model.predict(voxels)
    return prediction
