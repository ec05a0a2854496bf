"""Options of `jobs/pool.py`."""

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from jobs.options.checkpoints import CheckpointOptions
from jobs.options.encoders import EncoderOptions
from mindeye_dist.config import DataConfig
from mindeye_dist.data.manifest import Split
from mindeye_dist.strict import check


@dataclass(frozen=True, kw_only=True)
class Build:
    """Encode pictures into a pool; an interrupted one is built again from the start."""

    out: str
    """Folder of the pool, on this machine."""
    images: str = ""
    """Folder or tar of JPEG or PNG pictures; those of --data-url without it."""
    data_url: str = ""
    """Folder or s3:// prefix of shards: their pictures, and where efficientnet-lite0's projection
    is."""
    subject: str = DataConfig.subject
    """Whose pictures of --data-url."""
    split: Split = "train"
    """Which pictures of --data-url."""
    max_side: int = 0
    """Pictures are cut square, and made smaller to this width (pixels): 0 for that of --data-url's,
    or 256 without it."""
    overwrite: bool = False
    """Replace a pool that is there."""
    model: Annotated[EncoderOptions, tyro.conf.arg(name="")] = field(default_factory=EncoderOptions)

    def __post_init__(self) -> None:
        check(bool(self.images or self.data_url), "images", self.images, "that or --data-url")
        check(self.max_side >= 0, "max_side", self.max_side, "0 or more")


@dataclass(frozen=True, kw_only=True)
class Search(CheckpointOptions):
    """Find the pictures of a pool that are nearest to what each test brain says."""

    pool: str
    """Folder of the pool."""
    out: str
    """Folder for matches.jsonl, a line a brain, and sheet.png."""
    k: int = 5
    """Pictures for each brain."""
    candidates: int = 300
    """Pictures that are ranked by all tokens; as many as the pool has make the search exact."""
    nprobe: int = 16
    """Lists of a large pool's index that are looked through."""
    include_seen: bool = False
    """Let pictures be found that are copies of those of the test split."""
    num_examples: int = 12
    """Brains on the sheet."""
    seed: int = 0
    """Which brains are on the sheet."""

    def __post_init__(self) -> None:
        for name, value in (("k", self.k), ("num_examples", self.num_examples)):
            check(value >= 1, name, value, "1 or more")
