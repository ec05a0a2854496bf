"""Options of `jobs/reconstruct.py`."""

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from jobs.options.reconstruction import DrawOptions
from jobs.options.splits import SplitOptions, check_split
from mindeye_dist.decoding.config import ReconstructionConfig


@dataclass(frozen=True, kw_only=True)
class Reconstruct(SplitOptions, DrawOptions):
    """Draw the pictures that brains of a split saw, and write them with all their candidates."""

    reconstruction: Annotated[ReconstructionConfig, tyro.conf.arg(name="")] = field(
        default_factory=ReconstructionConfig
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_split(self)
