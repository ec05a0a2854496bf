"""Open a checkpoint and its companions: data, encoder, low-level run and codec.

In: `CheckpointOptions` or `RunOptions`. Out: the checkpoint's folder; from the loaded `Predictor`,
the data to evaluate on, the encoder of its clip_tokens, and the low-level run beside it.
"""

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
    """Return the folders of the chosen checkpoint and of its run, None for one outside a run.

    Raises:
        CheckpointError: the run has no good checkpoint.
    """
    named = options.checkpoint
    path = (
        fetch_named_checkpoint(named, options.mlflow) if named else best_checkpoint(options.run_dir)
    )
    return path, path.parent.parent if path.parent.name == "checkpoints" else None


def fetch_named_checkpoint(checkpoint: str, mlflow: str = "") -> Path:
    """Return the local folder of a checkpoint given by folder, s3:// prefix or models:/NAME@ALIAS.

    Raises:
        CheckpointError: the registry has no such model, or the checkpoint cannot be fetched.
    """
    if checkpoint.startswith(SCHEME):
        from jobs.tracking.registry import resolve  # MLflow takes seconds to import

        return resolve(checkpoint, mlflow)
    if "://" in checkpoint:
        return fetch_checkpoint(checkpoint, cache_folder() / "checkpoints")
    return Path(absolute_path(checkpoint)).resolve()


def best_checkpoint(run_dir: str) -> Path:
    """Return the checkpoint of a run with the best validation score.

    Raises:
        CheckpointError: the run has no good checkpoint.
    """
    found = Checkpoints(absolute_path(run_dir), 1).best()
    if found is None:
        there = Path(absolute_path(run_dir)).is_dir()
        reason = "has no good checkpoint" if there else "no such folder; jobs/train.py makes one"
        raise CheckpointError(f"{absolute_path(run_dir)}: {reason}")
    return found


def data_store(options: CheckpointOptions, predictor: Predictor) -> Store:
    """Return the store of the shards: --data-url, or else the one in the checkpoint's config."""
    return Store(absolute_path(options.data_url) if options.data_url else predictor.config.data.url)


def open_data(
    predictor: Predictor, store: Store, manifest: Manifest, device: Literal["cpu", "cuda"]
) -> EvaluationData:
    """Return a checkpoint's data, with stored or computed targets as in its training."""
    config = predictor.config
    config = replace(config, compute=replace(config.compute, device=device))
    if config.pipeline == "lowlevel":
        # Evaluation needs no teacher.
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
    """Return the encoder that made the clip_tokens of a high-level checkpoint's training.

    Args:
        predictor: the checkpoint; its config or its targets name the encoder.
        store: store of the shards, with the projection of a simulated subject's encoder.
        device: device of the encoder.
        weights: weights of CLIP, as `jobs/embed.py` takes them.
        antialias: antialiasing in CLIP's preprocessing, as `jobs/embed.py` takes it.

    Raises:
        DataError: the encoder is unknown, the store has no projection of it, or the checkpoint is
            low-level.
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
    """Open the low-level run beside a high-level checkpoint, or the one that the options name.

    If a run that no option names cannot be opened, it is left out with a message. With
    `drawn_over` that is an error, as other pictures would be drawn without it.

    Args:
        options: name or exclude the low-level run.
        predictor: the high-level checkpoint.
        run_dir: the high-level run, if the checkpoint is in one.
        opened: opens the rest of the low-level pipeline from its checkpoint.
        drawn_over: whether pictures are drawn over the low-level pictures.

    Returns:
        The result of `opened`; None without a low-level run.

    Raises:
        UserError: the named run cannot be opened.
        DataError: the run cannot be opened, and `drawn_over` is set.
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
        DataError: the weights given are of another codec.
        InputError: weights are missing or do not fit.
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
