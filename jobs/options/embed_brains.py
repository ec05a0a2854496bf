"""Flags of `jobs/embed_brains.py`: a checkpoint, and a split whose voxels it embeds."""

from dataclasses import dataclass

from jobs.options.checkpoints import CheckpointOptions
from jobs.options.splits import SplitOptions


@dataclass(frozen=True, kw_only=True)
class EmbedBrains(SplitOptions, CheckpointOptions):
    """Embed the voxels of a split; each embedding is float32 of unit norm, tokens x dim."""

    pictures_per_shard: int = 64
    """Pictures per shard of the output; a killed worker loses at most one shard."""
