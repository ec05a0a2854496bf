"""Options of `jobs/embed.py`."""

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from jobs.options.encoders import EncoderOptions
from mindeye_dist.config import DataConfig
from mindeye_dist.shapes import Recipe
from mindeye_dist.strict import check


@dataclass(frozen=True, kw_only=True)
class Embed:
    """Compute targets of all subjects' pictures, and write them beside the shards."""

    data_url: str = DataConfig.url
    """Folder or s3:// prefix that holds manifest.json."""
    name: str = ""
    """Name of the set in the manifest (data.targets, data.latents or data.teacher); by default the
    model's, with its variants."""
    variants: int = 0
    """Augmented variants of each picture, beside the picture itself."""
    augmentation: Recipe = "release"
    """How variants are made: as in the published release, in the development script that the
    published weights come from, or for the low-level teacher."""
    seed: int = 0
    """Which variants are drawn."""
    workers: int = 1
    """Ray workers, each with a copy of the model."""
    overwrite: bool = False
    """Replace a set of that name in the manifest that is by other weights."""
    without_ray: bool = False
    """Compute in this very process."""
    model: Annotated[EncoderOptions, tyro.conf.arg(name="")] = field(default_factory=EncoderOptions)

    def __post_init__(self) -> None:
        check(self.variants >= 0, "variants", self.variants, "0 or more")
        check(self.workers >= 1, "workers", self.workers, "1 or more")
