"""Flags of `jobs/reconstruct.py`: checkpoints, generator, and the split to draw."""

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from jobs.options.reconstruction import DrawOptions
from jobs.options.splits import SplitOptions
from mindeye_dist.decoding.config import ReconstructionConfig


@dataclass(frozen=True, kw_only=True)
class Reconstruct(SplitOptions, DrawOptions):
    """Reconstruct the pictures that brains of a split saw; write them with all candidates."""

    reconstruction: Annotated[ReconstructionConfig, tyro.conf.arg(name="")] = field(
        default_factory=ReconstructionConfig
    )

    def __post_init__(self) -> None:
        SplitOptions.__post_init__(self)
        DrawOptions.__post_init__(self)
