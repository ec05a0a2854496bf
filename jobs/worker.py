"""The worker, the page to read first: one line for each station from shards to checkpoints.

Called by `train` and `tune`, under Ray, torchrun or in one process; it depends on none of these.
"""

import logging
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from threading import Event

from torch import nn

from jobs.opening.encoders import data_shapes, open_split, training_encoder
from mindeye_dist.config import DataConfig, ExperimentConfig
from mindeye_dist.data.loader import TrainLoader
from mindeye_dist.data.manifest import read_manifest
from mindeye_dist.distributed import agree, rank, world_size
from mindeye_dist.errors import CheckpointError, InputError
from mindeye_dist.models.build import build_model
from mindeye_dist.models.lowlevel import LowLevel
from mindeye_dist.models.mindeye import MindEye
from mindeye_dist.runs.checkpoint_copies import CheckpointCopies
from mindeye_dist.runs.checkpoints import (
    Checkpoints,
    Progress,
    TrainingState,
    checkpoint_files,
    read_progress,
)
from mindeye_dist.runs.journal import Journal, Report, write_summary
from mindeye_dist.runs.same_run import check_same_run
from mindeye_dist.shapes import Shapes
from mindeye_dist.storage.disk_cache import DiskCache
from mindeye_dist.storage.store import Store
from mindeye_dist.training.backends.protocol import Backend
from mindeye_dist.training.objective import HighLevelObjective, LowLevelObjective, Objective
from mindeye_dist.training.trainer import Trainer

log = logging.getLogger(__name__)


def worker(
    config: ExperimentConfig,
    reports: Sequence[Report] = (),
    validated: Sequence[Report] = (),
    notice: Event | None = None,
) -> None:
    """Train one model as one of the run's workers, from the newest good checkpoint on.

    Args:
        config: the run.
        reports: called on rank 0 with every row of metrics, after the journal.
        validated: called on rank 0 with epochs and score of a validation, once that is saved.
        notice: set to have the run save a checkpoint and end.

    Raises:
        InputError: the number of running workers is not the config's.
        PreemptedError: `notice` was set.
    """
    check_workers(config)
    store = Store(config.data.url, open_disk_cache(config.data))
    manifest = read_manifest(store)
    encoder = training_encoder(config, store)
    train = open_split(config, store, manifest, config.data.train_on, encoder)
    validation = open_split(config, store, manifest, "val", encoder)
    loader = TrainLoader(train, config.data, config.training)
    shapes = data_shapes(manifest, config, encoder)
    model = build_model(config, shapes)
    objective = build_objective(config, model)
    backend = build_backend(config, model)
    checkpoints = open_checkpoints(config)
    progress = restore(config, checkpoints, shapes, backend)
    trainer = Trainer(
        config=config,
        loader=loader,
        validation=validation,
        objective=objective,
        backend=backend,
        checkpoints=checkpoints,
        about=checkpoint_files(config, shapes),
        reports=[Journal(config.run_dir, progress.step), *reports] if rank() == 0 else [],
        validated=validated if rank() == 0 else [],
        notice=notice,
    )
    trainer.fit(progress)
    write_run_summary(config, trainer)


def check_workers(config: ExperimentConfig) -> None:
    """Check that the number of running workers is the config's.

    Raises:
        InputError: it is not.
    """
    if rank() == 0:
        log.info("worker started; reading the indexes of %s", config.data.url)
    fewest, most = config.compute.fewest_workers, config.compute.num_workers
    if not fewest <= world_size() <= most:
        expected = most if fewest == most else f"{fewest} to {most}"
        raise InputError(f"compute.num_workers: got {expected}, but {world_size()} are running")


def open_disk_cache(data: DataConfig) -> DiskCache | None:
    """Return the disk cache of remote shards' members; None if `data.disk_cache` is empty."""
    if not data.disk_cache:
        return None
    return DiskCache(data.disk_cache, int(data.disk_cache_gib * 2**30))


def build_objective(config: ExperimentConfig, model: MindEye | LowLevel) -> Objective:
    """Return the pipeline's objective."""
    if isinstance(model, LowLevel):
        return LowLevelObjective(config)
    return HighLevelObjective(config, model.prior.scale)


def build_backend(config: ExperimentConfig, model: nn.Module) -> Backend:
    """Return the backend `compute.backend`: that of training/backends/NAME_backend.py."""
    if rank() == 0:
        log.info("the model is built; starting its backend, %s", config.compute.backend)
    module = import_module(f"mindeye_dist.training.backends.{config.compute.backend}_backend")
    backend: Backend = module.build(model, config)
    return backend


def write_run_summary(config: ExperimentConfig, trainer: Trainer) -> None:
    """Write the facts of the finished training; without a step taken, the earlier facts stay."""
    summary = trainer.summary()
    if rank() == 0 and trainer.clock.samples:
        write_summary(config.run_dir, summary)


def open_checkpoints(config: ExperimentConfig) -> Checkpoints:
    """Return the run's checkpoints, with copies to `checkpoint.copy_to` if that is set."""
    copy_to = config.checkpoint.copy_to
    copy = CheckpointCopies(copy_to).copy if copy_to else None
    return Checkpoints(config.run_dir, config.checkpoint.keep, copy)


def newest_on_all_ranks(checkpoints: Checkpoints) -> Path | None:
    """Return rank 0's newest good checkpoint on every rank, None if there is none.

    Raises:
        CheckpointError: a rank does not see the checkpoint's folder.
    """
    newest = agree(str(checkpoints.newest() or "") if rank() == 0 else "")[0]
    if not newest:
        return None
    missing = [
        number for number, seen in enumerate(agree(str(Path(newest).exists()))) if seen != "True"
    ]
    if missing:
        raise CheckpointError(f"{newest}: is not there for ranks {missing}; run_dir must be shared")
    return Path(newest)


def restore(
    config: ExperimentConfig, checkpoints: Checkpoints, shapes: Shapes, backend: Backend
) -> Progress:
    """Load the newest good checkpoint or copy, if any, into the backend; return its progress.

    Raises:
        CheckpointError: the checkpoint is of another run, or does not fit the model.
    """
    if config.checkpoint.copy_to and rank() == 0:
        CheckpointCopies(config.checkpoint.copy_to).fetch(checkpoints)
    newest = newest_on_all_ranks(checkpoints)
    if newest is None:
        if rank() == 0:
            log.info("training begins; the first line follows after a few steps")
        return Progress()
    check_same_run(newest, config, shapes)
    progress = read_progress(newest)
    backend.load_state(TrainingState(newest, backend.shapes), progress.step - progress.skipped)
    log.warning("resuming from %s", newest)
    return progress
