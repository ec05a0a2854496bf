"""Options of `jobs/shards.py`."""

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

LICENCE = "Not stated; responses from NSD are under the NSD terms and conditions."


@dataclass(frozen=True, kw_only=True)
class Index:
    """Write manifest and indexes beside shards in the published layout, without copying them."""

    url: Positional[str]
    """Folder or s3:// prefix that has train/train_subj01_0.tar and so on."""
    subject: str = ""
    """Only this subject; all that are found without it."""
    checksums: bool = False
    """Read pictures, voxels and numbers of repeats too, so that later reads are verified by their
    contents and not by their size alone."""
    overwrite: bool = False
    """Replace the subject in the manifest, with the targets that it has there."""
    threads: int = 16
    """Tars that are read at the same time."""
    licence: str = LICENCE
    """Note for a new manifest."""


@dataclass(frozen=True, kw_only=True)
class Convert:
    """Make shards of volumes, a mask and a table of events."""

    nifti: tuple[Path, ...]
    """4-D files: one that holds all, or one for each session, session 1 being the first."""
    mask: Path
    """3-D file; voxels that are not 0 are used."""
    events: Path
    """TSV or CSV, a line a trial, with columns session, run, volume (its first volume, from 0 in
    the file) or onset (s; the nearest volume is taken, the later one of two as near), picture (file
    below --pictures) or condition or both, and perhaps split (train, val, test). Trials of the same
    picture are repeats."""
    out: str
    """Folder or s3:// prefix to write to."""
    subject: str = "subj01"
    pictures: Path | None = None
    """Folder of the pictures that the table names; none are stored without it."""
    side: int = 256
    """Width and height of the stored pictures (pixels)."""
    tr: float = 0.0
    """Time between volumes (s), for a table with onsets."""
    delay: int = 0
    """Volumes from a trial's first volume to its response; 0 for betas."""
    window: int = 1
    """Volumes averaged to a response; 1 for betas."""
    detrend: bool = False
    """Subtract each run's straight line, for time series; in a run of several splits it is fitted
    to the volumes outside of val's and test's windows."""
    volumes_per_run: tuple[int, ...] = ()
    """Volumes of each run of a file, or one number for all; a file is one run without it."""
    val_runs: tuple[str, ...] = ()
    """Runs, as the table names them, that are the val split, where it has no column split."""
    test_runs: tuple[str, ...] = ()
    """Runs that are the test split."""
    drop_constant: bool = False
    """Leave out voxels that are constant over a session's training trials, not finite, or so nearly
    constant that z-scores are beyond float16."""
    overwrite: bool = False
    """Replace the subject where the manifest has it already; its old shards stay, and the new ones'
    names tell their contents."""
    licence: str = LICENCE
    """Note for a new manifest."""
