"""Flags of `jobs/pool.py`: the subcommands build and search."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from jobs.options.checkpoints import CheckpointOptions
from jobs.options.encoders import EncoderOptions
from mindeye_dist.config import DataConfig
from mindeye_dist.strict import check


@dataclass(frozen=True, kw_only=True)
class Build:
    """Encode pictures into a pool; an interrupted build starts anew."""

    out: str
    """Folder of the pool to write, on this machine."""
    images: str = ""
    """Folder or tar of JPEG or PNG pictures; by default the pictures of --data-url."""
    data_url: str = ""
    """Folder or s3:// prefix of shards, with pictures and efficientnet-lite0's projection."""
    subject: str = DataConfig.subject
    """Subject of --data-url."""
    split: Literal["train", "val", "test"] = "train"
    """Split of --data-url."""
    max_side: int = 0
    """Largest width of the stored pictures, which are cut square, in pixels; 0 for the width of the
    pictures of --data-url, or 256 without it."""
    overwrite: bool = False
    """Replace an existing pool."""
    model: Annotated[EncoderOptions, tyro.conf.arg(name="")] = field(default_factory=EncoderOptions)

    def __post_init__(self) -> None:
        check(
            bool(self.images or self.data_url),
            "images",
            self.images,
            "a folder or tar, or else --data-url",
        )
        check(self.max_side >= 0, "max_side", self.max_side, "0 or more")


@dataclass(frozen=True, kw_only=True)
class Search(CheckpointOptions):
    """Find the pictures of a pool nearest to the embedding of each test brain."""

    pool: str
    """Folder of the pool."""
    out: str
    """Output folder or s3:// prefix for matches.jsonl, one line per brain, and sheet.png."""
    k: int = 5
    """Number of pictures to find for each brain."""
    candidates: int = 300
    """Number of pictures from the index that are ranked again by all tokens; the size of the pool
    makes the search exact."""
    nprobe: int = 16
    """Number of lists of a large pool's index (FAISS IVF) to search."""
    include_seen: bool = False
    """Include copies of the test split's pictures."""
    num_examples: int = 12
    """Number of brains on the sheet."""
    seed: int = 0
    """Seed of the choice of brains on the sheet."""

    def __post_init__(self) -> None:
        for name, value in (("k", self.k), ("num_examples", self.num_examples)):
            check(value >= 1, name, value, "1 or more")
