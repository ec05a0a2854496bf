"""Open an image generator by name.

In: `GeneratorOptions`. Out: a `Generator`, from clip_tokens (and initial pictures) to pictures.
"""

from dataclasses import replace
from pathlib import Path

from jobs.command import absolute_path, weights_path
from jobs.options.generators import GeneratorOptions
from mindeye_dist.errors import InputError
from mindeye_dist.frozen.codecs import LatentCodec
from mindeye_dist.frozen.open_codec import open_codec
from mindeye_dist.frozen.small_autoencoder import SmallAutoencoder
from mindeye_dist.generators.latent_diffusion import Sampling
from mindeye_dist.generators.protocol import Generator
from mindeye_dist.generators.small import SCENES_GENERATOR, SmallGenerator, codec_of
from mindeye_dist.generators.unclip import DEFAULT, StableUnCLIP
from mindeye_dist.generators.versatile import PUBLISHED, VersatileDiffusion

GENERATOR_FILE, AUTOENCODER_FILE = "generator.safetensors", "autoencoder.safetensors"
"""Files of jobs/train_generator.py in its run folder."""


def open_generator(options: GeneratorOptions) -> Generator:
    """Return an image generator by its name.

    Raises:
        ImportError: a package of the generator is not installed.
        InputError: weights are missing or do not fit.
    """
    if options.generator == "small":
        return _small(options)
    if not options.weights:
        raise InputError(
            f"--draw.weights: got none, {options.generator} needs a folder or hub name"
        )
    kind = VersatileDiffusion if options.generator == "versatile-diffusion" else StableUnCLIP
    default = PUBLISHED if kind is VersatileDiffusion and not options.mended else DEFAULT
    if kind is VersatileDiffusion:
        default = replace(default, steps=PUBLISHED.steps, guidance=PUBLISHED.guidance)
    sampling: Sampling = replace(
        default,
        steps=options.steps or default.steps,
        guidance=options.guidance or default.guidance,
    )
    weights = weights_path(options.weights)
    return kind(weights, sampling, device=options.device, dtype=options.dtype)


def _small(options: GeneratorOptions) -> SmallGenerator:
    path = Path(absolute_path(options.weights)) if options.weights else SCENES_GENERATOR
    if path.is_dir():
        path = path / GENERATOR_FILE
    return SmallGenerator.load(
        path,
        codec=_codec(path, options),
        device=options.device,
        steps=options.steps,
        guidance=options.guidance,
    )


def _codec(path: Path, options: GeneratorOptions) -> LatentCodec:
    name, shape = codec_of(path)
    source, beside = weights_path(options.codec), path.with_name(AUTOENCODER_FILE)
    if not source and name == SmallAutoencoder.name and beside.exists():
        source = str(beside)
    return open_codec(name, source, shape, options.device, subfolder=options.codec_subfolder)
