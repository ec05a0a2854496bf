"""Flags that choose an image generator: the project's own, or one whose weights a user brings."""

from dataclasses import dataclass
from typing import Literal

from mindeye_dist.generators.config import Precision
from mindeye_dist.strict import check


@dataclass(frozen=True, kw_only=True)
class GeneratorOptions:
    """An image generator by name, its weights, sampling and device."""

    generator: Literal["small", "versatile-diffusion", "stable-unclip"] = "small"
    """small: this project's, trained by jobs/train_generator.py. versatile-diffusion: the published
    one, from 257 x 768 tokens. stable-unclip: from 1 x 768."""
    weights: str = ""
    """small: a file, or the run folder of jobs/train_generator.py; by default the generator of
    rendered scenes shipped with the project. Others: a folder or a name on the hub."""
    codec: str = ""
    """small: weights of the codec of its latents, if the codec has any: a folder, a VAE's name on
    the hub, or an autoencoder's file; by default the autoencoder beside the generator's file."""
    codec_subfolder: str = ""
    """small: subfolder of --draw.codec with the VAE (`vae` in a whole pipeline)."""
    steps: int = 0
    """Number of the sampler's steps; 0 for the generator's own (published: 20)."""
    guidance: float = 0.0
    """Scale of classifier-free guidance; 0 for the generator's own (published: 3.5)."""
    mended: bool = False
    """versatile-diffusion: without the published code's quirks. The sampler ends without noise,
    initial pictures are normalised as the autoencoder expects, and their latents are the
    posterior's mode."""
    dtype: Precision = "fp32"
    """Precision of versatile-diffusion's and stable-unclip's weights."""
    device: str = "cpu"
    """Leave as it is: jobs compute on their own --device."""

    def __post_init__(self) -> None:
        of = self.generator
        fitting = {
            "mended": of == "versatile-diffusion" or not self.mended,
            "codec": of == "small" or not self.codec,
            "dtype": of != "small" or self.dtype == "fp32",
        }
        for name, fits in fitting.items():
            check(fits, f"draw.{name}", getattr(self, name), f"nothing: {of} has no such option")
