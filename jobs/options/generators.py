"""Image generators by name: the project's own, and two whose weights users bring."""

from dataclasses import dataclass
from typing import Literal

from mindeye_dist.generators.latent_diffusion import Precision
from mindeye_dist.strict import check


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
