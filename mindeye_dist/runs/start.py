"""Start of a run: may it begin, resume, or replace an earlier run in its folder?"""

import os
import shutil
from pathlib import Path

from mindeye_dist.config import ExperimentConfig
from mindeye_dist.distributed import barrier, rank
from mindeye_dist.errors import InputError
from mindeye_dist.runs.checkpoint_copies import CheckpointCopies
from mindeye_dist.runs.checkpoints import Checkpoints
from mindeye_dist.runs.folder import (
    CHECKPOINTS,
    JOURNAL,
    PAGE,
    RAY,
    REPORT,
    SUMMARY,
    TRACKED_RUN,
    TRACKING,
)
from mindeye_dist.runs.same_run import check_same_settings


def check_run_dir(config: ExperimentConfig, *, resume: bool, overwrite: bool) -> None:
    """Check that the run folder is new, or that its run is to be resumed or deleted.

    Raises:
        InputError: the folder holds a run and neither is asked for, or there is no run to resume.
    """
    if "://" in config.run_dir:
        raise InputError(
            f"run_dir: got {config.run_dir!r}, expected a folder that all workers share"
        )
    checkpoints, copy_to = Checkpoints(config.run_dir, 1), config.checkpoint.copy_to
    if copy_to and os.environ.get("RANK", "0") == "0":  # ranks would delete each other's probe
        CheckpointCopies(copy_to).check_writable()
    copied = bool(copy_to and CheckpointCopies(copy_to).names())
    if resume:
        newest = checkpoints.newest()
        if newest is None and not copied:
            raise InputError(
                f"--resume: no good checkpoint in {checkpoints.folder}; start without --resume"
            )
        if newest is not None:
            check_same_settings(newest, config)
        return
    if overwrite:
        return
    if checkpoints.folder.exists():
        raise InputError(
            f"run_dir: {config.run_dir} holds a run; --resume goes on with it, "
            "--overwrite deletes it, --run-dir names another folder"
        )
    if copied:
        raise InputError(
            f"checkpoint.copy_to: {copy_to} holds a run; --resume goes on with it, "
            "--overwrite deletes it"
        )


def make_run_dir(config: ExperimentConfig, *, overwrite: bool) -> None:
    """Make the run folder; with `overwrite`, delete the files of an earlier run in it.

    Called on all ranks: rank 0 does the work before any rank writes to the folder.
    """
    if rank() == 0:
        Path(config.run_dir).mkdir(parents=True, exist_ok=True)
        if overwrite:
            empty(config)
    barrier()


def empty(config: ExperimentConfig) -> None:
    """Delete the files of an earlier run, and the copies of its checkpoints."""
    run_dir = Path(config.run_dir)
    for name in (CHECKPOINTS, RAY):
        shutil.rmtree(run_dir / name, ignore_errors=True)
    if config.checkpoint.copy_to:
        copies = CheckpointCopies(config.checkpoint.copy_to)
        copies.delete(copies.names())
    for name in (JOURNAL, SUMMARY, TRACKED_RUN, TRACKING, REPORT, PAGE):
        (run_dir / name).unlink(missing_ok=True)
