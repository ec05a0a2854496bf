"""Flags that choose the training pictures of a generator, and the encoder of their clip_tokens."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from jobs.options.encoders import EncoderOptions
from mindeye_dist.config import DataConfig
from mindeye_dist.strict import check


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """Training pictures: rendered scenes, shards or files; and the encoder of their clip_tokens."""

    scenes: int = 16_000
    """Number of rendered scenes, the default source without --data-url and --images."""
    data_url: str = ""
    """Folder or s3:// prefix of shards: training pictures with stored clip_tokens. Pictures in a
    test split are left out."""
    subjects: tuple[str, ...] = ()
    """Subjects of --data-url; by default all."""
    targets: str = DataConfig.targets
    """Name of the set of clip_tokens in the manifest of --data-url."""
    images: str = ""
    """Folder or tar of JPEG or PNG pictures. All are learned: keep test pictures out of it, or use
    --data-url, which leaves them out."""
    image_side: int = 160
    """Width of the square cut out of each picture of --images, in pixels."""
    encoder: Annotated[EncoderOptions, tyro.conf.arg(name="encoder")] = field(
        default_factory=lambda: EncoderOptions(encoder="efficientnet-lite0")
    )
    """Encoder of the clip_tokens of --images and scenes; efficientnet-lite0 uses the projection
    shipped with the project."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Device of encoder and training."""

    def __post_init__(self) -> None:
        check(not (self.data_url and self.images), "images", self.images, "none beside --data-url")
