"""Flags of `jobs/shards.py`: the subcommands index and convert."""

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

LICENCE = "Not stated; responses from NSD are under the NSD terms and conditions."


@dataclass(frozen=True, kw_only=True)
class Index:
    """Write manifest and indexes beside shards of the published layout, without copying them."""

    url: Positional[str]
    """Folder or s3:// prefix with train/train_subj01_0.tar and so on."""
    subject: str = ""
    """Subject to index; by default all that are found."""
    checksums: bool = False
    """Read pictures, voxels and numbers of repeats too, and store their checksums, so that later
    reads are verified by content, not only by size."""
    overwrite: bool = False
    """Replace the subject's entry in the manifest, with its targets."""
    threads: int = 16
    """Number of tars read at the same time."""
    licence: str = LICENCE
    """Licence note of a new manifest."""


@dataclass(frozen=True, kw_only=True)
class Convert:
    """Make shards from volumes, a mask and a table of events."""

    nifti: tuple[Path, ...]
    """4-D files: one for all sessions, or one for each session, session 1 first."""
    mask: Path
    """3-D file; its nonzero voxels are used."""
    events: Path
    """TSV or CSV file, one line per trial. Columns: session, run; volume (the trial's first volume,
    counted from 0 in the file) or onset (seconds; the nearest volume is used, the later one of two
    equally near ones); picture (a file below --pictures) or condition or both; optionally split
    (train, val, test). Trials of the same picture are repeats."""
    out: str
    """Output folder or s3:// prefix."""
    subject: str = "subj01"
    """Name of the subject in the manifest."""
    pictures: Path | None = None
    """Folder of the pictures in the table; without it no pictures are stored."""
    side: int = 256
    """Width and height of the stored pictures, in pixels."""
    tr: float = 0.0
    """Time between volumes, in seconds, for a table with onsets."""
    delay: int = 0
    """Number of volumes from a trial's first volume to its response; 0 for GLM responses."""
    window: int = 1
    """Number of volumes averaged to a response; 1 for GLM responses."""
    detrend: bool = False
    """Subtract each run's linear trend, for time series. In a run with several splits, the trend is
    fitted to the volumes outside the windows of val and test."""
    volumes_per_run: tuple[int, ...] = ()
    """Number of volumes of each run of a file, or one number for all runs; by default a file is one
    run."""
    val_runs: tuple[str, ...] = ()
    """Runs of the val split, as named in the table, if the table has no column split."""
    test_runs: tuple[str, ...] = ()
    """Runs of the test split."""
    drop_constant: bool = False
    """Drop voxels that are not finite, constant over a session's training trials, or so nearly
    constant that their z-scores exceed float16."""
    overwrite: bool = False
    """Replace the subject's entry in the manifest; the old shards stay, and the new ones have the
    digest of their contents in their names."""
    licence: str = LICENCE
    """Licence note of a new manifest."""
