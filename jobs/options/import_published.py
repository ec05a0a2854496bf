"""Flags of `jobs/import_published.py`: published weights, and the subject they decode."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True, kw_only=True)
class ImportPublished:
    """Convert published weights to a checkpoint."""

    file: Annotated[Path, tyro.conf.Positional]
    """Published `.pth` file."""
    out: str
    """Folder of the checkpoint; must not exist."""
    data_url: str = ""
    """Folder or s3:// prefix of the subject's shards, the source of its number of voxels and of the
    digests of its targets."""
    subject: str = "subj01"
    """Name of the subject in the manifest of --data-url."""
    voxels_of: str = ""
    """NSD subject whose number of voxels is expected, without --data-url."""
    targets: str = ""
    """Name of the set of clip_tokens that the weights predict; by default the recipe's."""
    latents: str = ""
    """Name of the set of latents that the weights predict; by default the recipe's."""
    any_size: bool = False
    """Accept weights of other sizes than the published ones; the sizes come from the file."""
