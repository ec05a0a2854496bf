"""Image generators by name: the project's own, and two whose weights users bring."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mindeye_dist.models.codecs import LatentCodec, open_codec
from mindeye_dist.models.generator import Generator
from mindeye_dist.models.small_generator import SCENES_GENERATOR, SmallGenerator, codec_of


@dataclass(frozen=True, kw_only=True)
class GeneratorOptions:
    """Which generator draws the pictures."""

    generator: Literal["small"] = "small"
    """small: this project's, trained by jobs/train_generator.py."""
    weights: str = ""
    """small: its file, or the folder of its training; the one for rendered scenes, which comes with
    the project, if it is empty."""
    codec: str = ""
    """small: weights of the codec whose latents it makes, where that has any: a folder, or a VAE's
    name on the hub."""
    codec_subfolder: str = ""
    """small: where in --codec the VAE is (`vae` in a whole pipeline)."""
    steps: int = 0
    """Steps of the sampler, instead of the generator's own number."""
    guidance: float = 0.0
    """Classifier-free guidance, instead of the generator's own."""
    device: str = "cpu"
    """Where to draw: cpu or cuda."""


def open_generator(options: GeneratorOptions) -> Generator:
    """Return a generator by its name.

    Raises:
        ValueError: there are no such weights, or they do not fit.
    """
    path = Path(options.weights) if options.weights else SCENES_GENERATOR
    if path.is_dir():
        path = path / "generator.safetensors"
    return SmallGenerator.load(
        path,
        codec=_codec(path, options),
        device=options.device,
        steps=options.steps,
        guidance=options.guidance,
    )


def _codec(path: Path, options: GeneratorOptions) -> LatentCodec:
    name, shape = codec_of(path)
    return open_codec(name, options.codec, shape, options.device, subfolder=options.codec_subfolder)
