"""Ridge regression from voxels to targets: the linear baseline that a decoder has to beat.

Fitted on the same training responses (repeats averaged), its penalty chosen by the error on the val
split. In dual form: it keeps a coefficient for each picture and target value, where the primal form
would keep one for each voxel and target value (12 GB at MindEye's full size), and one decomposition
of the pictures' kernel serves every penalty.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from mindeye_dist.errors import InputError

PENALTIES = tuple(float(10.0**power) for power in range(0, 7))


@dataclass(frozen=True)
class Ridge:
    """A fit: linear around the training means."""

    voxels: Float[np.ndarray, "pictures voxels"]
    dual: Float[np.ndarray, "pictures features"]
    voxel_mean: Float[np.ndarray, " voxels"]
    target_mean: Float[np.ndarray, " features"]

    def predict(
        self, voxels: Float[np.ndarray, "brains voxels"]
    ) -> Float[np.ndarray, "brains features"]:
        """Return the predicted targets."""
        return (voxels - self.voxel_mean) @ self.voxels.T @ self.dual + self.target_mean


def fit_ridge(
    voxels: Float[np.ndarray, "pictures voxels"],
    targets: Float[np.ndarray, "pictures features"],
    val_voxels: Float[np.ndarray, "val_pictures voxels"],
    val_targets: Float[np.ndarray, "val_pictures features"],
    penalties: Sequence[float] = PENALTIES,
) -> Ridge:
    """Return the fit with the smallest mean squared error on the val split.

    Raises:
        InputError: no penalty gives a finite error.
    """
    voxel_mean, target_mean = voxels.mean(axis=0), targets.mean(axis=0)
    centred = voxels - voxel_mean
    values, vectors = np.linalg.eigh(centred @ centred.T)
    rotated = vectors.T @ (targets - target_mean)
    val_kernel = (val_voxels - voxel_mean) @ centred.T @ vectors
    wanted = val_targets - target_mean
    errors = [
        float(np.mean((val_kernel @ _shrunk(rotated, values, penalty) - wanted) ** 2))
        for penalty in penalties
    ]
    if not np.isfinite(errors).any():
        raise InputError("ridge: no penalty gave a finite error on the val split")
    best = penalties[int(np.nanargmin(errors))]
    dual = vectors @ _shrunk(rotated, values, best)
    return Ridge(voxels=centred, dual=dual, voxel_mean=voxel_mean, target_mean=target_mean)


def _shrunk(rotated: np.ndarray, values: np.ndarray, penalty: float) -> np.ndarray:
    # Rounding leaves the smallest eigenvalues of a kernel a little below 0.
    return rotated / (np.maximum(values, 0) + penalty)[:, None].astype(rotated.dtype)
