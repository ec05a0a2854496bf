"""Pictures to learn, for the project's own generator: where they come from, held in memory."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from jobs.options.encoders import EncoderOptions
from mindeye_dist.config import DataConfig
from mindeye_dist.strict import check


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """Which pictures, and what makes their clip_tokens."""

    scenes: int = 16_000
    """Rendered scenes to learn, where neither --data-url nor --images is given."""
    data_url: str = ""
    """Shards whose training pictures and stored clip_tokens are learned; never their test split."""
    subjects: tuple[str, ...] = ()
    """Subjects of --data-url whose pictures are taken; all of them by default."""
    targets: str = DataConfig.targets
    """Set of clip_tokens in the manifest of --data-url."""
    images: str = ""
    """Folder or tar of JPEG or PNG pictures to learn, every one of them: leave out yourself what
    a brain is to be tested on, or take --data-url, which does."""
    image_side: int = 160
    """Width of the square that is cut out of a picture of --images and encoded (pixels)."""
    encoder: Annotated[EncoderOptions, tyro.conf.arg(name="encoder")] = field(
        default_factory=lambda: EncoderOptions(encoder="efficientnet-lite0")
    )
    """What makes clip_tokens of --images and scenes; efficientnet-lite0 takes the projection that
    comes with the project."""
    device: Literal["cpu", "cuda"] = "cpu"

    def __post_init__(self) -> None:
        check(not (self.data_url and self.images), "images", self.images, "none beside --data-url")
