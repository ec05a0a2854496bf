"""Flags of `jobs/train_generator.py`: pictures, latents, network and training."""

from dataclasses import dataclass, field
from typing import Literal

from jobs.options.generator_pictures import SourceOptions
from mindeye_dist.frozen.config import AutoencoderConfig
from mindeye_dist.generators.config import GeneratorConfig, Imperfection, PictureTraining


@dataclass(frozen=True, kw_only=True)
class TrainGenerator(SourceOptions):
    """Train a small latent diffusion model from clip_tokens to pictures."""

    run_dir: str = "runs/generator"
    """Folder of prepared pictures, training state, a sheet of samples and the generator."""
    codec: Literal["small-autoencoder", "pixels", "taef2", "autoencoder-kl"] = "small-autoencoder"
    """Codec of the latents. A small-autoencoder is trained first, on the same pictures. Each square
    of patch x patch latents is a token of the network: use --network.patch 1 for taef2 and
    autoencoder-kl, whose latents are few, and a larger patch for pixels."""
    codec_weights: str = ""
    """Weights of the codec. taef2: a folder. autoencoder-kl: a folder or hub name.
    small-autoencoder: the file of a trained autoencoder, to train none."""
    codec_subfolder: str = ""
    """autoencoder-kl: subfolder of --codec-weights (`vae` in a whole pipeline)."""
    side: int = 64
    """Width of the drawn pictures, in pixels."""
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
    """Standard deviation of the noise added to the autoencoder's latents, which lie in -1..1."""
