"""Opening of the objects that the options of `jobs/options/checkpoints.py` name."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypeVar

from jobs.command import SCHEME, absolute_path, cache_folder, weights_path
from jobs.opening.encoders import data_shapes, open_split, target_encoder, training_encoder
from jobs.options.checkpoints import CheckpointOptions, RunOptions
from jobs.options.encoders import EncoderOptions
from mindeye_dist.data.dataset import Dataset
from mindeye_dist.data.manifest import Manifest
from mindeye_dist.data.target_encoder import TargetEncoder
from mindeye_dist.decoding.predictor import Predictor, check_codec, check_pipeline
from mindeye_dist.errors import CheckpointError, DataError, UserError
from mindeye_dist.evaluation.data import EvaluationData
from mindeye_dist.frozen.codecs import LatentCodec
from mindeye_dist.frozen.open_codec import open_codec
from mindeye_dist.runs.checkpoint_copies import fetch_checkpoint
from mindeye_dist.runs.checkpoints import Checkpoints
from mindeye_dist.shapes import TargetShape
from mindeye_dist.storage.store import Store

SPLITS = ("train", "val", "test")


Opened = TypeVar("Opened")


def chosen_checkpoint(options: CheckpointOptions) -> tuple[Path, Path | None]:
    """Return the folder of the checkpoint that is meant, and of its run where it is of one.

    Raises:
        CheckpointError: the run has no good checkpoint.
    """
    named = options.checkpoint
    path = (
        fetch_named_checkpoint(named, options.mlflow) if named else best_checkpoint(options.run_dir)
    )
    return path, path.parent.parent if path.parent.name == "checkpoints" else None


def fetch_named_checkpoint(checkpoint: str, mlflow: str = "") -> Path:
    """Return the folder of a checkpoint that was named, registered in MLflow, or lies on S3.

    Raises:
        CheckpointError: there is none of that name, or it cannot be fetched.
    """
    if checkpoint.startswith(SCHEME):
        from jobs.tracking.registry import resolve  # MLflow takes seconds to import

        return resolve(checkpoint, mlflow)
    if "://" in checkpoint:
        return fetch_checkpoint(checkpoint, cache_folder() / "checkpoints")
    return Path(absolute_path(checkpoint)).resolve()


def best_checkpoint(run_dir: str) -> Path:
    """Return a run's best checkpoint.

    Raises:
        CheckpointError: the run has no good checkpoint.
    """
    found = Checkpoints(absolute_path(run_dir), 1).best()
    if found is None:
        there = Path(absolute_path(run_dir)).is_dir()
        said = "has no good checkpoint" if there else "no such folder; jobs/train.py makes one"
        raise CheckpointError(f"{absolute_path(run_dir)}: {said}")
    return found


def data_store(options: CheckpointOptions, predictor: Predictor) -> Store:
    """Return where the shards are: as the options say, or else the checkpoint."""
    return Store(absolute_path(options.data_url) if options.data_url else predictor.config.data.url)


def open_data(
    predictor: Predictor, store: Store, manifest: Manifest, device: Literal["cpu", "cuda"]
) -> EvaluationData:
    """Return a checkpoint's data: with stored targets, or computed ones as it was trained on."""
    config = predictor.config
    config = replace(config, compute=replace(config.compute, device=device))
    if config.pipeline == "lowlevel":
        # The teacher is for training alone, and its maps are not needed here.
        name = config.data.latents
        stored = manifest.subject(config.data.subject).target_set("latents", name)
        opened = {
            split: Dataset(store, manifest, config.data, split, {"latents": name})
            for split in SPLITS
        }
        targets = TargetShape(stored.shape, stored.encoder, stored.digest)
    else:
        encoder = training_encoder(config, store)
        opened = {split: open_split(config, store, manifest, split, encoder) for split in SPLITS}
        targets = data_shapes(manifest, config, encoder).targets["clip_tokens"]
    return EvaluationData(splits=opened, targets=targets, manifest=manifest)


def checkpoint_encoder(
    predictor: Predictor,
    store: Store,
    device: Literal["cpu", "cuda"],
    *,
    weights: str = "",
    antialias: bool = False,
) -> TargetEncoder:
    """Return the encoder by whose clip_tokens a high-level checkpoint was trained.

    Args:
        predictor: the checkpoint; its config names the encoder, or else its targets do.
        store: the shards, beside which the projection of a simulated subject's encoder lies.
        device: where to compute.
        weights: CLIP's, as `jobs/embed.py` takes them.
        antialias: CLIP's preprocessing, as `jobs/embed.py` takes it.

    Raises:
        DataError: there is no such encoder, or the store has no projection of it; a low-level
            checkpoint.
    """
    check_pipeline(predictor, "highlevel")
    config = predictor.config
    config = replace(config, compute=replace(config.compute, device=device))
    if encoder := training_encoder(config, store):
        return encoder
    name = predictor.shapes.targets["clip_tokens"].encoder
    if name.startswith("efficientnet-lite0"):
        return target_encoder(EncoderOptions(encoder="efficientnet-lite0", device=device), store)
    if not name.startswith("clip-vit-l-14"):
        raise DataError(
            f"{predictor.path}: its clip_tokens are by {name}, expected clip-vit-l-14 or "
            "efficientnet-lite0 to encode candidates with"
        )
    options = EncoderOptions(
        encoder="clip-vit-l-14",
        weights=weights_path(weights),
        final=name.endswith("-final"),
        antialias=antialias,
        device=device,
    )
    return target_encoder(options, store)


def open_lowlevel_run(
    options: RunOptions,
    predictor: Predictor,
    run_dir: Path | None,
    opened: Callable[[Predictor], Opened],
    *,
    drawn_over: bool,
) -> Opened | None:
    """Return what `opened` makes of the low-level run that goes with a high-level checkpoint.

    A run that was found and not named is left out where it cannot be opened, and that is said;
    unless pictures are drawn over its own, which without them would be others.

    Raises:
        DataError: it was found, pictures are drawn over its own, and it cannot be opened.
    """
    if options.no_lowlevel:
        return None
    named = options.lowlevel_run_dir
    folder = named or (f"{run_dir}-lowlevel" if run_dir else "")
    if not named and not (folder and Path(folder, "checkpoints").exists()):
        return None
    try:
        elsewhere = ":/" in folder
        own = Predictor(
            fetch_named_checkpoint(folder, options.mlflow)
            if elsewhere
            else best_checkpoint(folder),
            options.device,
        )
        if own.config.pipeline != "lowlevel":
            raise CheckpointError(f"{own.path}: is of the {own.config.pipeline} pipeline")
        subject, other = own.subject, predictor.subject
        if subject != other:
            raise DataError(f"{own.path}: is of {subject}, {predictor.path} of {other}")
        return opened(own)
    except UserError as error:
        if named:
            raise
        if drawn_over:
            raise DataError(
                f"the low-level run {folder}: {error}; --no-lowlevel draws without it"
            ) from error
        print(f"left out the low-level run {folder}: {error}", file=sys.stderr)
        return None


def open_latent_codec(options: RunOptions, predictor: Predictor) -> LatentCodec:
    """Return the codec of a low-level checkpoint's latents.

    Raises:
        DataError: what was given is another one.
        InputError: it needs weights that are not given, or they do not fit.
    """
    trained = predictor.shapes.targets["latents"]
    codec = open_codec(
        trained.encoder,
        weights_path(options.codec),
        trained.shape,
        options.device,
        subfolder=options.codec_subfolder,
    )
    check_codec(predictor, codec)
    return codec
