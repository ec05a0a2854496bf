"""Brains of a split, part by part: what batch jobs over voxels have in common.

A part's brains share a shard of the output, whose name is a digest of all that it depends on: what
is there and intact is right, and a killed job goes on with the missing ones.
"""

from dataclasses import dataclass
from typing import Literal

from mindeye_dist.strict import check


@dataclass(frozen=True, kw_only=True)
class SplitOptions:
    """Which brains, where to, and who computes."""

    out: str = ""
    """Folder or s3:// prefix; by default a folder in RUN_DIR, or for a checkpoint of no run beside
    the checkpoint."""
    split: Literal["train", "val", "test"] = "test"
    limit: int = 0
    """Pictures of the split, the first ones; 0 takes all."""
    repeats: Literal["average", "first"] = "average"
    """The mean of each picture's repeats, or a single trial."""
    pictures_per_shard: int = 8
    """What a killed run loses of a worker's work, at most."""
    workers: int = 1
    """Ray workers, each with a copy of the models."""
    without_ray: bool = False
    """Compute in this very process."""


def check_split(options: SplitOptions) -> None:
    """Check the bounds of the numbers among the options."""
    check(options.limit >= 0, "limit", options.limit, "0 or more")
    for name in ("pictures_per_shard", "workers"):
        check(getattr(options, name) >= 1, name, getattr(options, name), "1 or more")
