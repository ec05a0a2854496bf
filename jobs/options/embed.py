"""Flags of `jobs/embed.py`: shards, encoder, variants and workers."""

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from jobs.options.encoders import EncoderOptions
from mindeye_dist.config import DataConfig
from mindeye_dist.shapes import Augmentation
from mindeye_dist.strict import check


@dataclass(frozen=True, kw_only=True)
class Embed:
    """Compute the targets of all subjects' pictures, and write them beside the shards."""

    data_url: str = DataConfig.url
    """Folder or s3:// prefix that holds manifest.json."""
    name: str = ""
    """Name of the set in the manifest, as data.targets, data.latents or data.teacher of a run take
    it; by default the encoder's name, with the variants."""
    variants: int = 0
    """Number of augmented variants of each picture, besides the picture itself."""
    augmentation: Augmentation = "release"
    """Augmentation of the variants: that of the published release, of the development script behind
    the published weights, or of the low-level teacher."""
    seed: int = 0
    """Seed of the variants."""
    workers: int = 1
    """Number of Ray workers, each with a copy of the encoder."""
    overwrite: bool = False
    """Replace a set of the same name that other weights made."""
    without_ray: bool = False
    """Compute in this process."""
    model: Annotated[EncoderOptions, tyro.conf.arg(name="")] = field(default_factory=EncoderOptions)

    def __post_init__(self) -> None:
        check(self.variants >= 0, "variants", self.variants, "0 or more")
        check(self.workers >= 1, "workers", self.workers, "1 or more")
