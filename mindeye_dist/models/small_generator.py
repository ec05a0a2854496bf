"""The project's own generator: a small diffusion transformer over a codec's latents.

It stands in where no pretrained generator can be had, behind the same protocol: trained by
jobs/train_generator.py on pictures and their clip_tokens, for any encoder and codec. Token 0, the
summary, enters through the norms with the time (Peebles and Xie 2023, adaptive LayerNorm; one
shared layer as in Chen et al. 2024), and so do the others, a map of the picture, each where it
lies. The network predicts the clean latents (Li and He 2025).
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional

from mindeye_dist.models.codecs import LatentCodec
from mindeye_dist.models.frozen import digest_of
from mindeye_dist.models.generator import Latents, Pictures, Tokens, check_request, denoise
from mindeye_dist.models.generator import noise_like as noise_of
from mindeye_dist.shapes import TargetShape
from mindeye_dist.strict import check, from_dict

TIMESTEPS = 1000
SCENES_GENERATOR = Path(__file__).parents[1] / "assets" / "scenes-generator.safetensors"
"""The generator for the project's rendered scenes, which comes with it."""


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    """Size of the network, and how it is sampled."""

    patch: int = 2
    """Width of the square of latents that is one token of the network."""
    width: int = 256
    depth: int = 6
    heads: int = 4
    steps: int = 6
    """Steps of the sampler (UniPC)."""
    guidance: float = 2.5
    """Classifier-free guidance (Ho and Salimans 2022); 1 is none, and half the time."""

    def __post_init__(self) -> None:
        for name in ("patch", "width", "depth", "heads", "steps"):
            check(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        check(self.width % self.heads == 0, "width", self.width, f"a multiple of {self.heads}")


@dataclass(frozen=True, kw_only=True)
class Imperfection:
    """What is done to clip_tokens while a generator is trained."""

    dropout: float = 0.1
    """Share of samples that have none, which guidance needs."""
    noise: float = 0.5
    """Most noise that a sample's tokens get, in units of their deviation: the prior's are imperfect
    too (Ho et al. 2022, conditioning augmentation)."""


class PictureTransformer(nn.Module):
    """Noisy latents, their timestep and clip_tokens -> clean latents.

    Args:
        config: of the network.
        latent_shape: channels, height and width.
        token_shape: tokens and their width; either one token, or one and a square map.

    Raises:
        ValueError: the tokens are no such map, or patches do not fill the latents.
    """

    def __init__(
        self,
        config: GeneratorConfig,
        latent_shape: tuple[int, int, int],
        token_shape: tuple[int, int],
    ) -> None:
        super().__init__()
        channels, height, width = latent_shape
        tokens, dim = token_shape
        self.side = math.isqrt(tokens - 1)
        if self.side**2 != tokens - 1:
            raise ValueError(f"got {tokens} tokens, expected one, or one and a square map")
        if height % config.patch or width % config.patch:
            raise ValueError(f"got latents {latent_shape}, expected multiples of {config.patch}")
        self.grid = (height // config.patch, width // config.patch)
        # Windows reach half a patch into their neighbours, or the seams would show.
        window = 2 * config.patch + config.patch % 2
        place = (config.patch, (window - config.patch) // 2)
        self.patches = nn.Conv2d(channels, config.width, window, *place)
        self.last = nn.ConvTranspose2d(config.width, channels, window, *place)
        self.positions = nn.Parameter(torch.randn(config.width, *self.grid) * 0.02)
        self.time = nn.Sequential(
            nn.Linear(256, config.width), nn.SiLU(), nn.Linear(config.width, config.width)
        )
        self.summary = nn.Linear(dim, config.width)
        self.map = nn.Linear(dim, config.width) if self.side else None
        self.modulation = nn.Linear(config.width, 6 * config.width)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.depth))
        nn.init.zeros_(self.last.weight)
        nn.init.normal_(self.modulation.weight, std=0.02)
        self.latent_mean: Tensor
        self.latent_sd: Tensor
        # Latents of unit variance, by the pictures that it is trained on.
        self.register_buffer("latent_mean", torch.zeros(channels, 1, 1))
        self.register_buffer("latent_sd", torch.ones(channels, 1, 1))

    def forward(self, latents: Latents, timestep: Int[Tensor, " batch"], tokens: Tokens) -> Latents:
        """Return clean latents, all latents in units of `latent_sd` around `latent_mean`."""
        tokens = tokens * tokens.shape[-1] ** 0.5
        x = rearrange(
            self.patches(latents) + self.positions, "batch width h w -> batch (h w) width"
        )
        condition = (self.time(_sinusoids(timestep, 256)) + self.summary(tokens[:, 0]))[:, None]
        if self.map is not None:
            condition = condition + self.map(self._spread(tokens[:, 1:]))
        shared = self.modulation(functional.silu(condition)).unflatten(-1, (6, -1))
        for block in self.blocks:
            x = block(x, shared, self.grid)
        x = functional.layer_norm(x, x.shape[-1:])
        return self.last(_as_grid(x, self.grid))

    def _spread(self, tokens: Float[Tensor, "batch map dim"]) -> Float[Tensor, "batch patches dim"]:
        """Return a map's tokens, interpolated to the patches."""
        grid = rearrange(tokens, "batch (h w) dim -> batch dim h w", h=self.side)
        spread = functional.interpolate(grid, self.grid, mode="bilinear", align_corners=False)
        return rearrange(spread, "batch dim h w -> batch (h w) dim")


class _Block(nn.Module):
    """Neighbours, self-attention and MLP; the condition sets scale, shift and gate of each norm."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.neighbours = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.mix = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.modulation = nn.Parameter(torch.zeros(6, width))

    def forward(
        self,
        x: Float[Tensor, "batch patches width"],
        shared: Float[Tensor, "batch places 6 width"],
        grid: tuple[int, int],
    ) -> Float[Tensor, "batch patches width"]:
        """Return patches of a grid; `shared` is of every patch, or one for all."""
        scale_a, shift_a, gate_a, scale_m, shift_m, gate_m = (shared + self.modulation).unbind(2)
        near = self.neighbours(_as_grid(x, grid))
        x = x + rearrange(near, "batch width h w -> batch (h w) width")
        normed = functional.layer_norm(x, x.shape[-1:]) * (1 + scale_a) + shift_a
        q, k, v = rearrange(
            self.queries_keys_values(normed),
            "batch patches (part heads dim) -> part batch heads patches dim",
            part=3,
            heads=self.heads,
        )
        attended = functional.scaled_dot_product_attention(q, k, v)
        attended = rearrange(attended, "batch heads patches dim -> batch patches (heads dim)")
        x = x + gate_a * self.mix(attended)
        normed = functional.layer_norm(x, x.shape[-1:]) * (1 + scale_m) + shift_m
        return x + gate_m * self.mlp(normed)


def _as_grid(
    x: Float[Tensor, "batch patches width"], grid: tuple[int, int]
) -> Float[Tensor, "batch width rows columns"]:
    return rearrange(x, "batch (h w) width -> batch width h w", h=grid[0])


def _sinusoids(timestep: Int[Tensor, " batch"], dim: int) -> Float[Tensor, "batch dim"]:
    half = dim // 2
    frequencies = torch.exp(-math.log(10_000) * torch.arange(half, device=timestep.device) / half)
    angles = timestep[:, None].float() * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


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
    network: Callable[[Latents, Tensor, Tokens], Latents],
    alphas_cumprod: Float[Tensor, " timesteps"],
    latents: Latents,
    tokens: Tokens,
    imperfection: Imperfection,
    generator: torch.Generator,
) -> Float[Tensor, ""]:
    """Return the mean squared error of the predicted clean latents, weighted by min(1 + SNR, 5).

    Args:
        network: a PictureTransformer.
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
    clean = network(kept.sqrt() * latents + (1 - kept).sqrt() * noise, timestep, tokens)
    weight = (1 / (1 - kept)).clamp(max=5)
    return (weight * (clean - latents).square()).mean()


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
        device: where to compute.
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
            start = (self.codec.encode(init).to(self.device) - mean) / deviation
        latents = denoise(
            self._scheduler,
            lambda x, timestep: self._predict(x, timestep, tokens),
            noise_of(self.codec.shape, seeds, self.device),
            steps=self.config.steps,
            init=start,
            strength=strength,
        )
        return self.codec.decode(latents * deviation + mean)

    def _predict(self, latents: Latents, timestep: Tensor, tokens: Tokens) -> Latents:
        times = timestep.expand(len(latents))
        clean: Tensor = self.network(latents, times, tokens)
        if self.config.guidance == 1:
            return clean
        without: Tensor = self.network(latents, times, torch.zeros_like(tokens))
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
        """Read what `save` wrote.

        Args:
            path: of the file.
            codec: its codec.
            device: where to compute.
            steps: of the sampler, instead of the file's; 0 keeps them.
            guidance: instead of the file's; 0 keeps it.

        Raises:
            ValueError: there is no such file, it is no generator, or of another codec.
        """
        about, tensors = _read(path)
        known = about["codec"]
        if codec.digest != known["digest"]:
            raise ValueError(
                f"{path}: is a generator of latents by {known['name']} {known['digest'][:12]}, "
                f"the codec given is {codec.name} {codec.digest[:12]}"
            )
        changed = {"steps": steps, "guidance": guidance}
        config = from_dict(
            GeneratorConfig, about["config"] | {k: v for k, v in changed.items() if v}
        )
        targets = from_dict(TargetShape, about["targets"])
        network = PictureTransformer(config, codec.shape, token_shape(targets))
        try:
            network.load_state_dict(tensors)
        except RuntimeError as error:
            raise ValueError(f"{path}: {' '.join(str(error).split())}") from error
        return cls(network, config, codec, targets, about=about["about"], device=device)


def codec_of(path: Path) -> tuple[str, tuple[int, ...]]:
    """Return name and latents' shape of the codec that a generator's file is for.

    Raises:
        ValueError: there is no such file, or it is no generator.
    """
    known = _read(path)[0]["codec"]
    return known["name"], tuple(known["shape"])


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})["generator"])
            return about, {k: file.get_tensor(k).float() for k in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: is no generator's file: {error}") from error
