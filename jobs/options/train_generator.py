"""Options of `jobs/train_generator.py`."""

from dataclasses import dataclass, field
from typing import Literal

from jobs.options.generator_pictures import SourceOptions
from mindeye_dist.frozen.small_autoencoder import AutoencoderConfig
from mindeye_dist.generators.small import Imperfection
from mindeye_dist.generators.small_network import GeneratorConfig
from mindeye_dist.generators.small_training import PictureTraining


@dataclass(frozen=True, kw_only=True)
class TrainGenerator(SourceOptions):
    """Train a small latent diffusion generator on pictures and their clip_tokens."""

    run_dir: str = "runs/generator"
    """Folder for the prepared pictures, the state, a sheet of samples and the result."""
    codec: Literal["small-autoencoder", "pixels", "taef2", "autoencoder-kl"] = "small-autoencoder"
    """Whose latents are drawn. A small-autoencoder is trained first, on the same pictures. Each
    square of patch x patch latents is a token of the network: taef2 and autoencoder-kl, whose
    latents are few, want --network.patch 1, pixels a larger one."""
    codec_weights: str = ""
    """taef2: a folder. autoencoder-kl: a folder or hub name. small-autoencoder: a file of one that
    is trained already."""
    codec_subfolder: str = ""
    """autoencoder-kl: where in --codec-weights it is (`vae` in a whole pipeline)."""
    side: int = 64
    """Width of the pictures that are drawn (pixels)."""
    network: GeneratorConfig = field(default_factory=GeneratorConfig)
    training: PictureTraining = field(default_factory=PictureTraining)
    imperfection: Imperfection = field(default_factory=Imperfection)
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    autoencoder_training: PictureTraining = field(
        default_factory=lambda: PictureTraining(
            epochs=3, batch_size=32, max_lr=2e-3, warmup_steps=100, weight_decay=0.0
        )
    )
    autoencoder_noise: float = 0.05
    """Standard deviation of the noise that its latents bear, which lie in -1..1."""
