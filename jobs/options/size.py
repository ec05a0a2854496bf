"""Flags of `jobs/size.py`: a run, and the shapes of its data."""

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from mindeye_dist.config import ExperimentConfig


@dataclass(frozen=True, kw_only=True)
class Size:
    """Estimate a run's memory before renting machines for it."""

    recipe: str = "mindeye1-subj01"
    """Name of the run to start from (jobs/recipes.py); the other flags change it."""
    num_voxels: int = 0
    """Number of voxels; 0 for the nsdgeneral mask of NSD's subject data.subject."""
    num_tokens: int = 257
    """Number of tokens of the target; 257 for ViT-L/14."""
    dim: int = 768
    """Width of a token; 768 for ViT-L/14."""
    config: Annotated[ExperimentConfig, tyro.conf.arg(name="")] = field(
        default_factory=ExperimentConfig
    )
