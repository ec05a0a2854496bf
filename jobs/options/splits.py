"""Flags of batch jobs over the voxels of a split: brains, output and workers."""

from dataclasses import dataclass
from typing import Literal

from mindeye_dist.strict import check


@dataclass(frozen=True, kw_only=True)
class SplitOptions:
    """Brains of a split, the output folder, and the number of workers."""

    out: str = ""
    """Output folder or s3:// prefix; by default a folder in RUN_DIR, or beside a checkpoint that is
    outside a run."""
    split: Literal["train", "val", "test"] = "test"
    """Split of the checkpoint's subject."""
    limit: int = 0
    """Number of pictures, from the start of the split; 0 for all."""
    repeats: Literal["average", "first"] = "average"
    """Voxels of a picture: the mean of its repeats, or its first trial."""
    pictures_per_shard: int = 8
    """Pictures per shard of the output; a killed worker loses at most one shard."""
    workers: int = 1
    """Number of Ray workers, each with a copy of the models."""
    without_ray: bool = False
    """Compute in this process."""

    def __post_init__(self) -> None:
        check(self.limit >= 0, "limit", self.limit, "0 or more")
        for name in ("pictures_per_shard", "workers"):
            check(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
