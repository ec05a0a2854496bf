"""Train the project's small image generator, and the autoencoder whose latents it draws.

In: pictures and their clip_tokens, prepared in memory. Out: generator.safetensors,
autoencoder.safetensors and a sheet of samples in the run folder. One process, one device; a killed
training continues when started again.
"""

import sys
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from jobs.command import absolute_path, local_path, watched
from jobs.opening.encoders import codec_from
from jobs.opening.generator_pictures import (
    PicturesInMemory,
    PictureSource,
    channel_moments,
    data_identity,
    encode_pictures,
    open_source,
    picture_tensor,
    prepare_pictures,
)
from jobs.opening.generators import AUTOENCODER_FILE, GENERATOR_FILE
from jobs.options.encoders import EncoderOptions
from jobs.options.train_generator import TrainGenerator
from mindeye_dist.frozen.codecs import LatentCodec, PixelCodec, resize
from mindeye_dist.frozen.small_autoencoder import (
    Autoencoder,
    SmallAutoencoder,
    latent_shape,
    reconstruction_loss,
)
from mindeye_dist.generators.small import SmallGenerator, generator_loss, sampler, token_shape
from mindeye_dist.generators.small_network import PictureTransformer
from mindeye_dist.generators.small_training import PictureTrainer
from mindeye_dist.strict import check

SHEET_PICTURES = 12
"""Number of pictures on the sheet of samples."""


def train_generator(options: TrainGenerator) -> Path:
    """Prepare the pictures, train, and return the path of the generator's file.

    Raises:
        DataError: pictures cannot be read.
        InputError: options contradict each other.
    """
    check(options.side >= 1, "side", options.side, "at least 1")
    folder = Path(options.run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    source = open_source(options)
    codec = named_codec(options)
    if codec is not None:
        check(codec.side == options.side, "side", options.side, f"{codec.name}'s {codec.side}")
    shape = codec.shape if codec else latent_shape(options.autoencoder, options.side)
    torch.manual_seed(options.training.seed)
    # Before anything slow, since the constructor checks that the options fit each other.
    network = PictureTransformer(options.network, shape, token_shape(source.targets))
    if codec is None or isinstance(codec, SmallAutoencoder):
        pixels = PixelCodec(codec.side if codec else options.side)
        pictures = prepare_pictures(folder, source, pixels)
        codec = codec or train_autoencoder(options, folder, source, pictures)
        codec.save(folder / AUTOENCODER_FILE)
        pictures = replace(pictures, latents=encode_pictures(codec, pictures.latents))
    else:
        pictures = prepare_pictures(folder, source, codec)
    trainer = generator_trainer(options, folder, source, codec, pictures, network)
    made = folder / GENERATOR_FILE
    for _ in train_to_end(trainer):
        write_generator(made, trainer, options, codec, source)
    return made


def named_codec(options: TrainGenerator) -> LatentCodec | None:
    """Return the codec that the options name; None if an autoencoder is to be trained."""
    if options.codec == "small-autoencoder":
        if not options.codec_weights:
            return None
        return SmallAutoencoder.load(
            Path(absolute_path(options.codec_weights)), device=options.device
        )
    return codec_from(
        EncoderOptions(
            encoder=options.codec,
            weights=options.codec_weights,
            subfolder=options.codec_subfolder,
            side=options.side,
            device=options.device,
        )
    )


def generator_trainer(  # noqa: PLR0913 - the parts of a training, each made elsewhere
    options: TrainGenerator,
    folder: Path,
    source: PictureSource,
    codec: LatentCodec,
    pictures: PicturesInMemory,
    network: PictureTransformer,
) -> PictureTrainer[PictureTransformer]:
    """Return the generator's trainer, resumed where it stopped."""
    mean, deviation = channel_moments(pictures.latents)
    network.latent_mean.copy_(mean)
    network.latent_sd.copy_(deviation)
    alphas_cumprod = sampler().alphas_cumprod.to(options.device)

    def loss(
        network: PictureTransformer, rows: Int[np.ndarray, " batch"], noise: torch.Generator
    ) -> Float[Tensor, ""]:
        latents, tokens = (
            torch.from_numpy(array[rows]).to(options.device).float()
            for array in (pictures.latents, pictures.tokens)
        )
        latents = (latents - network.latent_mean) / network.latent_sd
        return generator_loss(network, alphas_cumprod, latents, tokens, options.imperfection, noise)

    trainer = PictureTrainer(
        network.to(options.device),
        loss,
        source.count,
        options.training,
        folder,
        name="the generator",
        about=f"{options.network} {options.imperfection} {data_identity(source, codec)}",
    )
    trainer.load()
    return trainer


def train_autoencoder(
    options: TrainGenerator, folder: Path, source: PictureSource, pictures: PicturesInMemory
) -> SmallAutoencoder:
    """Train an autoencoder on the pictures, and return it."""
    settings = options.autoencoder_training
    torch.manual_seed(settings.seed)

    def loss(
        network: Autoencoder, rows: Int[np.ndarray, " batch"], noise: torch.Generator
    ) -> Float[Tensor, ""]:
        images = torch.from_numpy(pictures.latents[rows]).to(options.device).float()
        return reconstruction_loss(network, images, options.autoencoder_noise, noise)

    own = folder / "autoencoder"
    own.mkdir(exist_ok=True)
    constants = f"{options.autoencoder} {options.autoencoder_noise} {options.side}"
    trainer = PictureTrainer(
        Autoencoder(options.autoencoder).to(options.device),
        loss,
        source.count,
        settings,
        own,
        name="the autoencoder",
        about=f"{constants} {source.digest}",
    )
    trainer.load()
    for _ in train_to_end(trainer):
        pass  # the trainer saves its state; a half-trained autoencoder is of no use
    return SmallAutoencoder(
        deepcopy(trainer.average),
        options.autoencoder,
        options.side,
        about=training_facts(source, trainer) | {"noise": options.autoencoder_noise},
        device=options.device,
    )


def train_to_end(trainer: PictureTrainer[Any]) -> Iterator[int]:
    """Train to the end; yield the step after every `save_every_steps`, and at the end."""
    every, what = trainer.settings.save_every_steps, trainer.name
    losses: list[float] = []
    remaining = trainer.total_steps - trainer.step
    for row in watched(trainer.run(), f"training {what}, step", remaining):
        losses.append(row["loss"])
        step = int(row["step"])
        if step % every == 0:
            mean = np.mean(losses[-every:])
            print(f"{what}: step {step} of {trainer.total_steps}, loss {mean:.4f}", file=sys.stderr)
            yield step
    if trainer.total_steps % every or not remaining:
        yield trainer.total_steps


def training_facts(source: PictureSource, trainer: PictureTrainer[Any]) -> dict[str, Any]:
    """Return the facts about training that a generator's file holds."""
    return {
        "pictures": f"{source.count} {source.about}",
        "pictures_digest": source.digest,
        "training": asdict(trainer.settings),
        "step": trainer.step,
        "by": "jobs/train_generator.py",
    }


def write_generator(
    made: Path,
    trainer: PictureTrainer[PictureTransformer],
    options: TrainGenerator,
    codec: LatentCodec,
    source: PictureSource,
) -> None:
    """Write the generator as trained so far, and a sheet of its pictures."""
    about = training_facts(source, trainer) | {"imperfection": asdict(options.imperfection)}
    # A copy, since a generator moves its network to its own device.
    average = deepcopy(trainer.average)
    generator = SmallGenerator(
        average, options.network, codec, source.targets, about=about, device=options.device
    )
    generator.save(made)
    write_sheet(made.with_name("samples.png"), source, codec, generator)


def write_sheet(
    path: Path, source: PictureSource, codec: LatentCodec, generator: SmallGenerator
) -> None:
    """Write rows of pictures: originals, through the codec, drawn from their tokens."""
    numbers = range(min(SHEET_PICTURES, source.count))
    files = source.read(numbers)
    images = picture_tensor(files)
    tokens = torch.from_numpy(source.tokens(numbers, files).astype(np.float32))
    rows = [
        resize(images, codec.side),
        codec.decode(codec.encode(images)).cpu(),
        generator(tokens, list(numbers)).cpu(),
    ]
    sheet = torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1)
    pixels = (255 * sheet.clamp(0, 1)).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(path)


def run(options: TrainGenerator) -> None:
    """Train, and print the path of the generator's file."""
    print(train_generator(replace(options, run_dir=local_path(options.run_dir, "run_dir"))))
