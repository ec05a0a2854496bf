"""The worker, and the one way to start it on a Ray cluster.

`worker` is the page to read first: one line a station, from shards to checkpoints. Train and tune
both launch it.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from ray.actor import ActorHandle
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from jobs.progress import Board, shown
from jobs.tracking import Tracker
from mindeye_dist.checkpoint import Checkpoints, Place, Shapes, TrainingState, describe, read_place
from mindeye_dist.config import DataConfig, ExperimentConfig, from_dict, to_dict
from mindeye_dist.data.loader import Dataset, TrainLoader
from mindeye_dist.data.shards import Manifest, read_manifest
from mindeye_dist.data.store import Store
from mindeye_dist.distributed import rank
from mindeye_dist.engine.backends import Backend, DeepSpeedBackend, TorchBackend
from mindeye_dist.engine.journal import Journal, write_summary
from mindeye_dist.engine.trainer import Report, Trainer
from mindeye_dist.models.mindeye import MindEye
from mindeye_dist.objective import Objective
from mindeye_dist.randomness import seed_for

log = logging.getLogger(__name__)


def worker(config: ExperimentConfig, reports: Sequence[Report] = ()) -> None:
    """Train one model, as one of the run's workers, from the run's newest good checkpoint on.

    Args:
        config: the run.
        reports: take every row of metrics on rank 0, after the journal.
    """
    store = Store(config.data.url)
    manifest = read_manifest(store)
    train = Dataset(store, manifest, config.data, "train")
    validation = Dataset(store, manifest, config.data, "val")
    loader = TrainLoader(train, config.data, config.training)
    shapes = data_shapes(manifest, config.data)
    model = build_model(config, shapes)
    expected = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
    objective = Objective(config.loss, config.training.epochs, model.prior.scale)
    backend = build_backend(config, model)
    checkpoints = Checkpoints(config.run_dir, config.checkpoint.keep)
    place = restore(checkpoints, backend, expected)
    trainer = Trainer(
        config=config,
        loader=loader,
        validation=validation,
        objective=objective,
        backend=backend,
        checkpoints=checkpoints,
        about=describe(config, shapes),
        reports=[Journal(config.run_dir, place.step), *reports] if rank() == 0 else [],
    )
    trainer.fit(place)
    if rank() == 0 and trainer.clock.samples:
        write_summary(config.run_dir, trainer.summary())


def data_shapes(manifest: Manifest, data: DataConfig) -> Shapes:
    """Return what the model must know of the data."""
    subject = manifest.subject(data.subject)
    targets = subject.clip_targets(data.targets)
    return Shapes(
        num_voxels=subject.num_voxels,
        num_tokens=targets.num_tokens,
        dim=targets.dim,
        encoder=targets.encoder,
        encoder_digest=targets.digest,
    )


def build_model(config: ExperimentConfig, shapes: Shapes) -> MindEye:
    """Return the model with its first weights, the same on every rank."""
    torch.manual_seed(seed_for(config.training.seed, "weights"))
    return MindEye(config.model, shapes.num_voxels, shapes.num_tokens, shapes.dim)


def build_backend(config: ExperimentConfig, model: MindEye) -> Backend:
    """Return the backend that the config names."""
    if config.compute.backend == "deepspeed":
        return DeepSpeedBackend(model, config.compute, config.optimizer, config.training)
    return TorchBackend(model, config.compute, config.optimizer)


def restore(
    checkpoints: Checkpoints, backend: Backend, expected: dict[str, tuple[int, ...]]
) -> Place:
    """Load the newest good checkpoint into the backend and return where it stood."""
    newest = checkpoints.newest()
    if newest is None:
        return Place()
    place = read_place(newest)
    backend.load_state(TrainingState(newest, expected), place.step)
    log.info("resumed from %s", newest)
    return place


def launch(config: ExperimentConfig) -> None:
    """Run `worker` on as many Ray workers as the config says and show its progress.

    Raises:
        ray.train.TrainingFailedError: a worker failed.
    """
    board: ActorHandle = Board.remote()  # type: ignore[attr-defined]
    cuda = config.compute.device == "cuda"
    trainer = TorchTrainer(
        ray_worker,
        train_loop_config={"config": to_dict(config), "board": board},
        torch_config=TorchConfig(backend="nccl" if cuda else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=config.compute.num_workers,
            use_gpu=cuda,
            resources_per_worker={"CPU": config.compute.cpus_per_worker, "GPU": int(cuda)},
        ),
        run_config=RunConfig(
            name=Path(config.run_dir).name,
            storage_path=str(Path(config.run_dir).resolve() / "ray"),
            # Without a limit Ray restarts a controller that can never succeed for ever.
            failure_config=FailureConfig(  # type: ignore[call-arg]
                max_failures=0, controller_failure_limit=0
            ),
        ),
    )
    with shown(board):
        trainer.fit()


def ray_worker(settings: dict[str, Any]) -> None:
    """Run `worker` inside Ray Train; rank 0 posts to the board and tracks in MLflow."""
    logging.basicConfig(level=logging.INFO if rank() == 0 else logging.WARNING)
    config = from_dict(ExperimentConfig, settings["config"])
    board: ActorHandle = settings["board"]
    if rank() != 0:
        worker(config)
        return
    reports: list[Report] = [board.post.remote]
    uri = tracking_uri(config)
    if uri == "off":
        worker(config, reports)
        return
    tracker = Tracker(config, uri)
    try:
        worker(config, [*reports, tracker])
    finally:
        tracker.close()


def tracking_uri(config: ExperimentConfig) -> str:
    """Return MLflow's URL: a data base beside the run folder by default."""
    if config.tracking.mlflow != "sqlite":
        return config.tracking.mlflow
    return f"sqlite:///{Path(config.run_dir).resolve().parent / 'mlflow.db'}"
