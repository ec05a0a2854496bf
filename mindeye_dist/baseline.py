"""Ridge regression from voxels to targets: the linear baseline that a decoder has to beat.

Fitted on the same training responses (repeats averaged), its penalty chosen by the error on the val
split. In dual form: it keeps a coefficient for each picture and target value, where the primal form
would keep one for each voxel and target value (12 GB at MindEye's full size).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from sklearn.kernel_ridge import KernelRidge

PENALTIES = tuple(float(10.0**power) for power in range(0, 7))


@dataclass(frozen=True)
class Ridge:
    """A fit: linear around the training means."""

    voxel_mean: Float[np.ndarray, " voxels"]
    target_mean: Float[np.ndarray, " features"]
    kernel: KernelRidge

    def predict(
        self, voxels: Float[np.ndarray, "pictures voxels"]
    ) -> Float[np.ndarray, "pictures features"]:
        """Return the predicted targets."""
        centred: np.ndarray = self.kernel.predict(voxels - self.voxel_mean)
        return centred + self.target_mean


def fit_ridge(
    voxels: Float[np.ndarray, "pictures voxels"],
    targets: Float[np.ndarray, "pictures features"],
    val_voxels: Float[np.ndarray, "val_pictures voxels"],
    val_targets: Float[np.ndarray, "val_pictures features"],
    penalties: Sequence[float] = PENALTIES,
) -> Ridge:
    """Return the fit with the smallest mean squared error on the val split.

    Raises:
        ValueError: no penalty gives a finite error.
    """
    means = voxels.mean(axis=0), targets.mean(axis=0)
    best, best_error = None, np.inf
    for penalty in penalties:
        kernel = KernelRidge(alpha=penalty).fit(voxels - means[0], targets - means[1])
        model = Ridge(*means, kernel)
        error = float(np.mean((model.predict(val_voxels) - val_targets) ** 2))
        if error < best_error:
            best, best_error = model, error
    if best is None:
        raise ValueError("ridge: no penalty gave a finite error on the val split")
    return best
