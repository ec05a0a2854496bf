"""A batch of one rank, and the alphabet of shape names.

Axes are called, everywhere: batch, voxels, repeats, tokens, dim, hidden, channels, height, width;
in retrieval brains and images; in the prior length (of its sequence), keys and heads; in simulation
and fitting pictures, features and components. A leading space (`" batch"`) marks a single axis.
"""

from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """One rank's part of a global batch.

    Attributes:
        voxels: one response a sample, z-scored per session.
        clip_tokens: targets; token 0 has unit norm.
        keys: sample keys, for messages.
        step: optimizer step (or number of the validation batch) that the batch is for.
        start: position of the first sample in the global batch.
        global_size: samples of the global batch.
    """

    voxels: Float[Tensor, "batch voxels"]
    clip_tokens: Float[Tensor, "batch tokens dim"]
    keys: tuple[str, ...]
    step: int
    start: int
    global_size: int

    def part(self, begin: int, end: int) -> "Batch":
        """Return samples begin..end of this rank's part, as a batch at its own place."""
        return replace(
            self,
            voxels=self.voxels[begin:end],
            clip_tokens=self.clip_tokens[begin:end],
            keys=self.keys[begin:end],
            start=self.start + begin,
        )
