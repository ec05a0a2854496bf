"""A batch of one rank, and the alphabet of shape names.

Axes are called, everywhere: batch, voxels, repeats, tokens, dim, hidden, channels, height, width;
in retrieval brains and images; in the prior length (of its sequence), keys and heads; in simulation
and fitting pictures, features and components. A leading space (`" batch"`) marks a single axis.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Shaped
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """One rank's part of a global batch.

    Attributes:
        voxels: one response a sample, z-scored per session.
        targets: by kind. `clip_tokens` (batch, tokens, dim), token 0 of unit norm; `latents`
            (batch, channels, height, width); `feature_map` (batch, tokens, dim) and
            `feature_map_augmented`, that of an augmented view of the picture. In the precision
            in which they are stored, until the batch is on its device.
        keys: sample keys, for messages.
        step: optimizer step (or number of the validation batch) that the batch is for.
        start: position of the first sample in the global batch.
        global_size: samples of the global batch.
    """

    voxels: Float[Tensor, "batch voxels"]
    targets: Mapping[str, Shaped[Tensor, "batch ..."]]
    keys: tuple[str, ...]
    step: int
    start: int
    global_size: int

    def part(self, begin: int, end: int) -> "Batch":
        """Return samples begin..end of this rank's part, as a batch with its own start."""
        return replace(
            self,
            voxels=self.voxels[begin:end],
            targets={kind: rows[begin:end] for kind, rows in self.targets.items()},
            keys=self.keys[begin:end],
            start=self.start + begin,
        )

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on a device, in single precision."""
        return replace(
            self,
            voxels=self.voxels.to(device, non_blocking=True).float(),
            targets={
                kind: rows.to(device, non_blocking=True).float()
                for kind, rows in self.targets.items()
            },
        )
