"""Options of `jobs/train.py`."""

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from mindeye_dist.config import ExperimentConfig


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a decoder from voxels to clip_tokens on a Ray cluster."""

    recipe: str = "demo"
    """Whole run to start from (jobs/recipes.py); the other flags change it."""
    resume: bool = False
    """Go on from the run folder's newest good checkpoint."""
    overwrite: bool = False
    """Delete what an earlier run left in the run folder."""
    with_lowlevel: bool = False
    """Train RECIPE-lowlevel after it, on the same data and workers, in RUN_DIR-lowlevel."""
    without_ray: bool = False
    """Train in this very process; under torchrun, in each of its processes."""
    config: Annotated[ExperimentConfig, tyro.conf.arg(name="")] = field(
        default_factory=ExperimentConfig
    )
