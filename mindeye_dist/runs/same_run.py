"""Same run: the settings that may change between a checkpoint and the run that resumes from it."""

from collections.abc import Mapping
from pathlib import Path

from mindeye_dist.config import ExperimentConfig
from mindeye_dist.errors import CheckpointError
from mindeye_dist.runs.checkpoints import read_config, read_shapes, read_stored_config
from mindeye_dist.runs.config_changes import CHANGES
from mindeye_dist.shapes import Shapes
from mindeye_dist.strict import paths, removed_in_use

MAY_CHANGE = (
    "run_dir",
    "data.url",
    "data.cache_gib",
    "data.prefetch_batches",
    "data.disk_cache",
    # These only stop a run or let it go on; they do not change the weights trained so far.
    "data.on_bad_sample",
    "data.max_bad_samples",
    "training.on_non_finite",
    "training.max_non_finite",
    "training.check_ranks_every",
    "training.max_micro_batch_size",
    "checkpoint.",
    "compute.num_workers",
    "compute.min_workers",
    "compute.max_restarts",
    "compute.device",
    "compute.backend",
    "compute.zero_stage",
    "compute.offload_optimizer",
    "compute.cpus_per_worker",
    "compute.gpus_per_worker",
    "tracking.",
)


def check_same_run(path: Path, config: ExperimentConfig, shapes: Shapes) -> None:
    """Check that a checkpoint was trained with these settings and shapes of data.

    The settings of MAY_CHANGE are ignored: where shards lie, caches, workers and the like.

    Raises:
        CheckpointError: lists every other setting or shape that differs.
    """
    then = _stored_settings(path) | paths(read_shapes(path))
    _check_same(path, then, paths(config) | paths(shapes))


def check_same_settings(path: Path, config: ExperimentConfig) -> None:
    """Check that a checkpoint was trained with these settings; needs no data.

    Raises:
        CheckpointError: lists the settings that differ and may not.
    """
    _check_same(path, _stored_settings(path), paths(config))


def _stored_settings(path: Path) -> dict[str, object]:
    """Return a checkpoint's settings by dotted path; settings in use must all still exist."""
    if lost := removed_in_use(read_stored_config(path), CHANGES):
        raise CheckpointError(
            f"{path}: cannot be resumed, this version no longer has {', '.join(lost)}"
        )
    return paths(read_config(path))


def _check_same(path: Path, then: Mapping[str, object], now: Mapping[str, object]) -> None:
    if found := changed_settings(then, now):
        listed = "; ".join(found)
        raise CheckpointError(f"{path}: is of another run, or wants its flags: {listed}")


def changed_settings(then: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
    """Return a line for each setting that differs between two runs and may not."""
    return [
        f"{name} was {then.get(name)!r}, is {value!r}"
        for name, value in now.items()
        if value != then.get(name) and not name.startswith(MAY_CHANGE)
    ]
