"""Flags of `jobs/train.py`: a run's whole config, and what to do with its folder."""

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from mindeye_dist.config import ExperimentConfig


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a decoder from voxels to clip_tokens on a Ray cluster."""

    recipe: str = "demo"
    """Name of the run to start from (jobs/recipes.py); the other flags change it."""
    resume: bool = False
    """Continue from the newest good checkpoint in the run folder."""
    overwrite: bool = False
    """Delete an earlier run's files in the run folder."""
    with_lowlevel: bool = False
    """Train RECIPE-lowlevel afterwards, on the same data and workers, in RUN_DIR-lowlevel."""
    without_ray: bool = False
    """Train in this process; under torchrun, in each of its processes."""
    config: Annotated[ExperimentConfig, tyro.conf.arg(name="")] = field(
        default_factory=ExperimentConfig
    )
