"""Image generators by name: the project's own, and two whose weights users bring."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from jobs.command import absolute_path, weights_path
from mindeye_dist.frozen.codecs import LatentCodec
from mindeye_dist.frozen.open_codec import open_codec
from mindeye_dist.frozen.small_autoencoder import SmallAutoencoder
from mindeye_dist.generators.latent_diffusion import Precision, Sampling
from mindeye_dist.generators.protocol import Generator
from mindeye_dist.generators.small import SCENES_GENERATOR, SmallGenerator, codec_of
from mindeye_dist.generators.unclip import DEFAULT, StableUnCLIP
from mindeye_dist.generators.versatile import PUBLISHED, VersatileDiffusion
from mindeye_dist.strict import check

GENERATOR_FILE, AUTOENCODER_FILE = "generator.safetensors", "autoencoder.safetensors"
"""What jobs/train_generator.py leaves in its folder."""


@dataclass(frozen=True, kw_only=True)
class GeneratorOptions:
    """Which generator draws the pictures."""

    generator: Literal["small", "versatile-diffusion", "stable-unclip"] = "small"
    """small: this project's, trained by jobs/train_generator.py. versatile-diffusion: the published
    one, from 257 x 768 tokens. stable-unclip: from 1 x 768."""
    weights: str = ""
    """small: its file, or the folder of its training; the one for rendered scenes, which comes with
    the project, if it is empty. Others: a folder or a name on the hub."""
    codec: str = ""
    """small: weights of the codec whose latents it makes, where that has any: a folder, a VAE's
    name on the hub, or an autoencoder's file; one that was trained with it is found beside it."""
    codec_subfolder: str = ""
    """small: where in --codec the VAE is (`vae` in a whole pipeline)."""
    steps: int = 0
    """Steps of the sampler, instead of the generator's own number (published: 20)."""
    guidance: float = 0.0
    """Classifier-free guidance, instead of the generator's own (published: 3.5)."""
    mended: bool = False
    """versatile-diffusion: without the published code's quirks: the sampler ends without noise,
    initial pictures are normalised as the autoencoder expects, their latents are the mode."""
    dtype: Precision = "fp32"
    """Precision of versatile-diffusion and stable-unclip."""
    device: str = "cpu"
    """Where to draw: cpu or cuda."""

    def __post_init__(self) -> None:
        of = self.generator
        fitting = {
            "mended": of == "versatile-diffusion" or not self.mended,
            "codec": of == "small" or not self.codec,
            "dtype": of != "small" or self.dtype == "fp32",
        }
        for name, fits in fitting.items():
            check(fits, f"draw.{name}", getattr(self, name), f"nothing: {of} has no such option")


def open_generator(options: GeneratorOptions) -> Generator:
    """Return a generator by its name.

    Raises:
        ImportError: a package that it needs is not installed.
        ValueError: there are no such weights, or they do not fit.
    """
    if options.generator == "small":
        return _small(options)
    if not options.weights:
        raise ValueError(
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
