"""The project's own generator: a small latent diffusion model of a codec's latents.

It stands in where no pretrained generator can be had, behind the same protocol: trained by
jobs/train_generator.py on pictures and their clip_tokens, for any encoder and codec.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional

from mindeye_dist.errors import InputError
from mindeye_dist.frozen.codecs import LatentCodec
from mindeye_dist.frozen.encoders import digest_of
from mindeye_dist.generators.config import GeneratorConfig, Imperfection
from mindeye_dist.generators.protocol import (
    Latents,
    Pictures,
    Tokens,
    check_request,
    denoise,
    once_each,
)
from mindeye_dist.generators.protocol import noise_like as noise_of
from mindeye_dist.generators.small_network import PictureTransformer
from mindeye_dist.shapes import TargetShape
from mindeye_dist.strict import from_dict

TIMESTEPS = 1000
SCENES_GENERATOR = Path(__file__).parents[1] / "assets" / "scenes-generator.safetensors"
"""The generator for the project's rendered scenes, which comes with it."""


def sampler() -> Any:
    """Return the noise schedule, and its sampler: cosine, UniPC (Zhao et al. 2023)."""
    from diffusers import UniPCMultistepScheduler

    return UniPCMultistepScheduler(
        num_train_timesteps=TIMESTEPS,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="sample",
        timestep_spacing="trailing",
    )


def generator_loss(
    network: PictureTransformer,
    alphas_cumprod: Float[Tensor, " timesteps"],
    latents: Latents,
    tokens: Tokens,
    imperfection: Imperfection,
    generator: torch.Generator,
) -> Float[Tensor, ""]:
    """Return the mean squared error of the clean latents, and of those guessed from tokens alone.

    That of the clean latents is weighted by min(1 + SNR, 5).

    Args:
        network: both parts.
        alphas_cumprod: of the schedule.
        latents: of unit variance.
        tokens: their clip_tokens.
        imperfection: of the tokens.
        generator: of timesteps, noise and dropout.
    """
    batch, device = len(latents), latents.device

    def uniform() -> Tensor:
        return torch.rand(batch, generator=generator, device=device)[:, None, None]

    timestep = (uniform().flatten() * len(alphas_cumprod)).long()
    kept = alphas_cumprod[timestep][:, None, None, None]
    noise = torch.randn(latents.shape, generator=generator, device=device)
    blur = torch.randn(tokens.shape, generator=generator, device=device) * tokens.std()
    tokens = tokens + imperfection.noise * uniform() * blur
    tokens = tokens * (uniform() >= imperfection.dropout)
    features = network.guess(tokens)
    clean = network(kept.sqrt() * latents + (1 - kept).sqrt() * noise, timestep, features)
    weight = (1 / (1 - kept)).clamp(max=5)
    guessed = functional.mse_loss(network.guess.mean_latents(features), latents)
    return (weight * (clean - latents).square()).mean() + guessed


def token_shape(targets: TargetShape) -> tuple[int, int]:
    """Return number and width of clip_tokens."""
    tokens, dim = targets.shape
    return tokens, dim


class SmallGenerator:
    """A trained PictureTransformer and its codec, as a `Generator`.

    Args:
        network: weights as they are to be used.
        config: of the network.
        codec: whose latents it makes.
        targets: shape of the clip_tokens that it takes, and their encoder.
        about: what else is known, such as how it was trained; kept in its file.
        device: device that computes.
    """

    name = "small-generator"

    def __init__(
        self,
        network: PictureTransformer,
        config: GeneratorConfig,
        codec: LatentCodec,
        targets: TargetShape,
        *,
        about: dict[str, Any] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.config, self.codec, self.about = config, codec, about or {}
        self.targets, self.encoder_digest = targets, targets.digest
        self.token_shape = token_shape(targets)
        self.side = codec.side
        constants = f"{self.name} {json.dumps(asdict(config), sort_keys=True)} {codec.digest}"
        self.digest = digest_of(constants, network.state_dict())
        self.device = torch.device(device)
        self.network = network.eval().requires_grad_(False).to(self.device)
        self._scheduler = sampler()

    @torch.no_grad()
    def __call__(
        self,
        tokens: Tokens,
        seeds: Sequence[int],
        init: Pictures | None = None,
        strength: float = 1.0,
    ) -> Pictures:
        """Return pictures in [0, 1]; see `Generator`."""
        check_request(self, tokens, seeds, init, strength)
        tokens = tokens.to(self.device, torch.float32)
        mean, deviation = self.network.latent_mean, self.network.latent_sd
        start = None
        if init is not None and strength < 1:
            start = (once_each(self.codec.encode, init).to(self.device) - mean) / deviation
        seen = once_each(self.network.guess, tokens)
        # No tokens at all are the same for every picture.
        blind = self.network.guess(torch.zeros_like(tokens[:1]))
        latents = denoise(
            self._scheduler,
            lambda x, timestep: self._predict(x, timestep, seen, blind),
            noise_of(self.codec.shape, seeds, self.device),
            steps=self.config.steps,
            init=start,
            strength=strength,
        )
        return self.codec.decode(latents * deviation + mean)

    def _predict(self, latents: Latents, timestep: Tensor, seen: Tensor, blind: Tensor) -> Latents:
        clean: Tensor = self.network(latents, timestep.expand(len(seen)), seen)
        if self.config.guidance == 1:
            return clean
        without: Tensor = self.network(latents, timestep.expand(1), blind)
        return without + self.config.guidance * (clean - without)

    def save(self, path: Path) -> None:
        """Write weights in half precision, and all else that `load` needs, to one file."""
        about = {
            "config": asdict(self.config),
            "codec": {
                "name": self.codec.name,
                "digest": self.codec.digest,
                "shape": self.codec.shape,
            },
            "targets": asdict(self.targets),
            "about": self.about,
        }
        halves = {k: v.half().contiguous().cpu() for k, v in self.network.state_dict().items()}
        partial = path.with_name(f"{path.name}.partial")
        partial.write_bytes(save(halves, {"generator": json.dumps(about, sort_keys=True)}))
        partial.replace(path)

    @classmethod
    def load(
        cls,
        path: Path,
        *,
        codec: LatentCodec,
        device: torch.device | str = "cpu",
        steps: int = 0,
        guidance: float = 0.0,
    ) -> "SmallGenerator":
        """Load a generator that `save` wrote.

        Args:
            path: the file.
            codec: its codec.
            device: where to compute.
            steps: of the sampler, instead of the file's; 0 keeps them.
            guidance: instead of the file's; 0 keeps it.

        Raises:
            InputError: there is no such file, it is no generator, or of another codec.
        """
        about, tensors = _read(path)
        known = about["codec"]
        if codec.digest != known["digest"]:
            raise InputError(
                f"{path}: is a generator of latents by {known['name']} {known['digest'][:12]}, "
                f"the codec given is {codec.name} {codec.digest[:12]}"
            )
        changed = {"steps": steps, "guidance": guidance}
        config = from_dict(
            GeneratorConfig, about["config"] | {k: v for k, v in changed.items() if v}, partial=True
        )
        targets = from_dict(TargetShape, about["targets"], partial=True)
        network = PictureTransformer(config, codec.shape, token_shape(targets))
        try:
            network.load_state_dict(tensors)
        except RuntimeError as error:
            raise InputError(f"{path}: {' '.join(str(error).split())}") from error
        return cls(network, config, codec, targets, about=about["about"], device=device)


def codec_of(path: Path) -> tuple[str, tuple[int, ...]]:
    """Return name and latents' shape of the codec that a generator's file is for.

    Raises:
        InputError: there is no such file, or it is no generator.
    """
    known = _read(path)[0]["codec"]
    return known["name"], tuple(known["shape"])


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})["generator"])
            return about, {k: file.get_tensor(k).float() for k in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: is no generator's file: {error}") from error
