"""Options of `jobs/import_published.py`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True, kw_only=True)
class ImportPublished:
    """Turn a published file into a checkpoint."""

    file: Annotated[Path, tyro.conf.Positional]
    """The `.pth`."""
    out: str
    """Folder of the checkpoint; must not exist."""
    data_url: str = ""
    """Shards of the subject: they tell its voxels, and the digests of its targets."""
    subject: str = "subj01"
    """Name in the manifest at --data-url."""
    voxels_of: str = ""
    """NSD subject whose voxel count to expect, without --data-url."""
    targets: str = ""
    """Set of clip_tokens that the weights predict, if not under the recipe's name."""
    latents: str = ""
    """Set of latents that the weights predict, if not under the recipe's name."""
    any_size: bool = False
    """For weights that the published code made at other sizes: take them from the file."""
