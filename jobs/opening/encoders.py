"""Open frozen encoders by name, and datasets with the targets that these compute.

In: `EncoderOptions`, or a run's config. Out: a `TargetEncoder`, from pictures to one kind of
target; a split with its targets; the shapes that a model is built from.
"""

import tempfile
from dataclasses import asdict
from pathlib import Path

from jobs.options.encoders import EncoderOptions
from mindeye_dist.config import ExperimentConfig
from mindeye_dist.data.dataset import Dataset, computed_targets
from mindeye_dist.data.manifest import Manifest
from mindeye_dist.data.target_encoder import TargetEncoder, Views
from mindeye_dist.distributed import local_device
from mindeye_dist.errors import InputError
from mindeye_dist.frozen.codecs import AutoencoderKLCodec, LatentCodec, PixelCodec
from mindeye_dist.frozen.efficientnet import EfficientNetLite0, efficientnet_lite0_weights
from mindeye_dist.frozen.encoders import EncoderMap, ImageEncoder
from mindeye_dist.frozen.projection import ENCODER_FILE, SCENES_ENCODER, ProjectedEncoder
from mindeye_dist.frozen.taef2 import TAEF2Codec
from mindeye_dist.frozen.teachers import ConvNextTeacher
from mindeye_dist.shapes import Kind, Shapes, TargetShape
from mindeye_dist.storage.store import Store
from mindeye_dist.strict import from_dict


def target_encoder(options: EncoderOptions, store: Store | None) -> TargetEncoder:
    """Return a frozen encoder by its name.

    Args:
        options: name and settings of the encoder.
        store: store of the shards with EfficientNet-Lite0's projection; without it, the projection
            for rendered scenes shipped with the project.

    Raises:
        DataError: the store has no projection of the encoder.
        ImportError: the package with its weights is not installed.
        InputError: weights are missing or do not fit.
    """
    if options.encoder == "clip-vit-l-14":
        # Here, since torchvision takes seconds to import, in each process of a run without CLIP.
        from mindeye_dist.frozen.clip import ClipTokens

        clip = ClipTokens(
            options.weights or "openai",
            final=options.final,
            antialias=options.antialias,
            device=options.device,
        )
        return _tokens("clip_tokens", clip)
    if options.encoder == "efficientnet-lite0":
        return _tokens("clip_tokens", _stored_projection(options, store))
    if options.encoder == "efficientnet-lite0-map":
        return _tokens("feature_map", EncoderMap(_stored_projection(options, store)))
    if options.encoder == "convnext":
        return _tokens("feature_map", _teacher(options))
    return _latents(codec_from(options))


def training_encoder(config: ExperimentConfig, store: Store) -> TargetEncoder | None:
    """Return the encoder that computes a run's targets; None if stored targets are read.

    Raises:
        InputError: the encoder is unknown, or its targets are not the pipeline's.
    """
    computed = config.data.computed
    if not computed.encoder:
        return None
    names = ("encoder", "weights", "final", "antialias")
    options = from_dict(
        EncoderOptions,
        # The worker's own device: plain "cuda" means the first one in the threads that read ahead.
        asdict(EncoderOptions(device=str(local_device(config.compute.device))))
        | {name: getattr(computed, name) for name in names},
        "data.computed.",
    )
    encoder = target_encoder(options, store)
    if config.target_sets.keys() != {encoder.kind}:
        raise InputError(
            f"data.computed.encoder: {computed.encoder} makes {encoder.kind}, the "
            f"{config.pipeline} pipeline wants {sorted(config.target_sets)}"
        )
    return encoder


def open_split(
    config: ExperimentConfig,
    store: Store,
    manifest: Manifest,
    split: str,
    encoder: TargetEncoder | None,
) -> Dataset:
    """Return a split with its targets: stored ones, or computed by `encoder` if given."""
    if encoder is None:
        return Dataset(store, manifest, config.data, split, config.target_sets)
    computed = config.data.computed
    views = Views(count=computed.variants, how=computed.augmentation, seed=computed.seed)
    dataset = Dataset(store, manifest, config.data, split)
    dataset.sources[encoder.kind] = computed_targets(dataset, encoder, views)
    return dataset


def _tokens(kind: Kind, encoder: ImageEncoder) -> TargetEncoder:
    return TargetEncoder(
        kind=kind,
        name=encoder.name,
        digest=encoder.digest,
        shape=(encoder.num_tokens, encoder.dim),
        encode=encoder,
    )


def _stored_projection(options: EncoderOptions, store: Store | None) -> ProjectedEncoder:
    """Return EfficientNet-Lite0 with the projection stored by the simulator."""
    data = store.read(ENCODER_FILE) if store else SCENES_ENCODER.read_bytes()
    base = EfficientNetLite0(efficientnet_lite0_weights(), device=options.device)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / Path(ENCODER_FILE).name
        file.write_bytes(data)
        return ProjectedEncoder.load(file, base)


def _teacher(options: EncoderOptions) -> ConvNextTeacher:
    return ConvNextTeacher(
        Path(_given_weights(options)),
        published_std=options.published_std,
        device=options.device,
    )


def _given_weights(options: EncoderOptions) -> str:
    if not options.weights:
        raise InputError(f"--weights: got none, {options.encoder} needs them")
    return options.weights


def codec_from(options: EncoderOptions) -> LatentCodec:
    """Return a latent codec by its name.

    Raises:
        InputError: weights are missing or do not fit.
    """
    if options.encoder == "pixels":
        return PixelCodec(options.side or 28)
    weights = _given_weights(options)
    if options.encoder == "taef2":
        return TAEF2Codec(Path(weights), options.side or 128, device=options.device)
    return AutoencoderKLCodec(
        weights, subfolder=options.subfolder, side=options.side or 512, device=options.device
    )


def _latents(codec: LatentCodec) -> TargetEncoder:
    return TargetEncoder(
        kind="latents",
        name=codec.name,
        digest=codec.digest,
        shape=codec.shape,
        encode=codec.encode,
    )


def data_shapes(
    manifest: Manifest, config: ExperimentConfig, encoder: TargetEncoder | None = None
) -> Shapes:
    """Return number of voxels and shapes of targets, stored or computed by `encoder`."""
    subject = manifest.subject(config.data.subject)
    if encoder is not None:
        made = TargetShape(encoder.shape, encoder.name, encoder.digest)
        return Shapes(num_voxels=subject.num_voxels, targets={encoder.kind: made})
    sets = {kind: subject.target_set(kind, name) for kind, name in config.target_sets.items()}
    return Shapes(
        num_voxels=subject.num_voxels,
        targets={k: TargetShape(s.shape, s.encoder, s.digest) for k, s in sets.items()},
    )
