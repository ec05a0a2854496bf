"""The networks of the project's own generator.

Two share the work. The first guesses from the clip_tokens alone what is where, once a picture, and
is trained to: its guess of the latents is their mean, a blurred picture. The second draws: from
noise and that guess it predicts the clean latents, timestep by timestep (predict and refine, Whang
et al. 2022; Li and He 2025 on what to predict). It is a diffusion transformer whose time and
condition enter through the norms (Peebles and Xie 2023, adaptive LayerNorm; one shared layer as in
Chen et al. 2024).
"""

import math

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from mindeye_dist.errors import InputError
from mindeye_dist.generators.config import NORM_GROUPS, GeneratorConfig
from mindeye_dist.generators.protocol import Latents, Tokens


class TokenDecoder(nn.Module):
    """clip_tokens -> layout of the picture: features of every patch, and mean latents.

    Token 0, the summary, sets scale and shift of every layer (Perez et al. 2018); the others are a
    map of the picture, each where it lies. Convolutions alone.

    Args:
        config: of the network.
        grid: rows and columns of patches.
        channels: of the latents.
        token_shape: tokens and their width; either one token, or one and a square map.

    Raises:
        InputError: the tokens are no such map.
    """

    def __init__(
        self,
        config: GeneratorConfig,
        grid: tuple[int, int],
        channels: int,
        token_shape: tuple[int, int],
    ) -> None:
        super().__init__()
        tokens, dim = token_shape
        self.grid, self.side, width = grid, math.isqrt(tokens - 1), config.guess_width
        if self.side**2 != tokens - 1:
            raise InputError(f"got {tokens} tokens, expected one, or one and a square map")
        self.summary = nn.Sequential(
            nn.Linear(dim, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
        )
        self.start = nn.Linear(width, width)
        self.map = nn.Conv2d(dim, width, 3, padding=1) if self.side else None
        self.positions = nn.Parameter(torch.randn(width, *grid) * 0.02)
        self.blocks = nn.ModuleList(_GuessBlock(width) for _ in range(config.guess_depth))
        self.last = nn.ConvTranspose2d(width, channels, *_window(config.patch))

    def forward(self, tokens: Tokens) -> Float[Tensor, "batch features down across"]:
        """Return the features of every patch."""
        tokens = tokens * tokens.shape[-1] ** 0.5
        summary = self.summary(tokens[:, 0])
        x = self.positions + self.start(summary)[:, :, None, None]
        if self.map is not None:
            grid = rearrange(tokens[:, 1:], "batch (h w) dim -> batch dim h w", h=self.side)
            spread = functional.interpolate(grid, self.grid, mode="bilinear", align_corners=False)
            x = x + self.map(spread)
        for block in self.blocks:
            x = block(x, summary)
        return x

    def mean_latents(self, features: Float[Tensor, "batch features down across"]) -> Latents:
        """Return the mean of the latents that features leave open."""
        return self.last(functional.silu(features))


class _GuessBlock(nn.Module):
    """Two convolutions, beside which the features pass (He et al. 2016)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.modulation = nn.Linear(width, 2 * width)
        nn.init.zeros_(self.second.weight)

    def forward(
        self,
        x: Float[Tensor, "batch features down across"],
        summary: Float[Tensor, "batch features"],
    ) -> Float[Tensor, "batch features down across"]:
        scale, shift = self.modulation(summary)[:, :, None, None].chunk(2, dim=1)
        h = self.first(functional.silu(_normed(x)))
        return x + self.second(functional.silu(_normed(h) * (1 + scale) + shift))


class PictureTransformer(nn.Module):
    """Noisy latents, their timestep and the layout -> clean latents.

    Args:
        config: of the network.
        latent_shape: channels, height and width.
        token_shape: tokens and their width; either one token, or one and a square map.

    Raises:
        InputError: the tokens are no such map, or patches do not fill the latents.
    """

    def __init__(
        self,
        config: GeneratorConfig,
        latent_shape: tuple[int, int, int],
        token_shape: tuple[int, int],
    ) -> None:
        super().__init__()
        channels, height, width = latent_shape
        if height % config.patch or width % config.patch:
            raise InputError(f"got latents {latent_shape}, expected multiples of {config.patch}")
        self.grid = (height // config.patch, width // config.patch)
        self.guess = TokenDecoder(config, self.grid, channels, token_shape)
        self.patches = nn.Conv2d(channels, config.width, *_window(config.patch))
        self.last = nn.ConvTranspose2d(config.width, channels, *_window(config.patch))
        self.positions = nn.Parameter(torch.randn(config.width, *self.grid) * 0.02)
        self.time = nn.Sequential(
            nn.Linear(256, config.width), nn.SiLU(), nn.Linear(config.width, config.width)
        )
        self.seen = nn.Conv2d(config.guess_width, 2 * config.width, 1)
        self.modulation = nn.Linear(config.width, 6 * config.width)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.depth))
        nn.init.zeros_(self.last.weight)
        nn.init.normal_(self.modulation.weight, std=0.02)
        self.latent_mean: Tensor
        self.latent_sd: Tensor
        # Latents of unit variance, by the pictures that it is trained on.
        self.register_buffer("latent_mean", torch.zeros(channels, 1, 1))
        self.register_buffer("latent_sd", torch.ones(channels, 1, 1))

    def forward(
        self,
        latents: Latents,
        timestep: Int[Tensor, " conditions"],
        features: Float[Tensor, "conditions features down across"],
    ) -> Latents:
        """Return clean latents, all latents in units of `latent_sd` around `latent_mean`.

        Args:
            latents: noisy.
            timestep: of the noise.
            features: by `guess`, from the tokens; one for each of the latents, or one for all.
        """
        drawn, condition = self.seen(functional.silu(features)).chunk(2, dim=1)
        x = _as_places(self.patches(latents) + self.positions + drawn)
        condition = _as_places(condition) + self.time(_sinusoids(timestep, 256))[:, None]
        shared = self.modulation(functional.silu(condition)).unflatten(-1, (6, -1))
        for block in self.blocks:
            x = block(x, shared, self.grid)
        x = functional.layer_norm(x, x.shape[-1:])
        return self.last(_as_grid(x, self.grid))


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
        shared: Float[Tensor, "conditions places 6 width"],
        grid: tuple[int, int],
    ) -> Float[Tensor, "batch patches width"]:
        # Part by part: the sum of all six at once would not stay in a CPU's caches.
        scale_a, shift_a, gate_a, scale_m, shift_m, gate_m = (
            part + own for part, own in zip(shared.unbind(2), self.modulation, strict=True)
        )
        near = self.neighbours(_as_grid(x, grid))
        x = x + _as_places(near)
        normed = torch.addcmul(shift_a, functional.layer_norm(x, x.shape[-1:]), 1 + scale_a)
        q, k, v = rearrange(
            self.queries_keys_values(normed),
            "batch patches (part heads dim) -> part batch heads patches dim",
            part=3,
            heads=self.heads,
        )
        attended = functional.scaled_dot_product_attention(q, k, v)
        attended = rearrange(attended, "batch heads patches dim -> batch patches (heads dim)")
        x = torch.addcmul(x, gate_a, self.mix(attended))
        normed = torch.addcmul(shift_m, functional.layer_norm(x, x.shape[-1:]), 1 + scale_m)
        return torch.addcmul(x, gate_m, self.mlp(normed))


def _as_grid(
    x: Float[Tensor, "batch patches width"], grid: tuple[int, int]
) -> Float[Tensor, "batch width rows columns"]:
    return rearrange(x, "batch (h w) width -> batch width h w", h=grid[0])


def _as_places(
    grid: Float[Tensor, "batch width rows columns"],
) -> Float[Tensor, "batch patches width"]:
    return rearrange(grid, "batch width rows columns -> batch (rows columns) width")


def _normed(
    x: Float[Tensor, "batch width rows columns"],
) -> Float[Tensor, "batch width rows columns"]:
    return functional.group_norm(x, NORM_GROUPS)


def _window(patch: int) -> tuple[int, int, int]:
    """Return width, stride and padding of windows that reach half a patch into their neighbours.

    Without, the seams between patches would show.
    """
    window = 2 * patch + patch % 2
    return window, patch, (window - patch) // 2


def _sinusoids(timestep: Int[Tensor, " batch"], dim: int) -> Float[Tensor, "batch dim"]:
    half = dim // 2
    frequencies = torch.exp(-math.log(10_000) * torch.arange(half, device=timestep.device) / half)
    angles = timestep[:, None].float() * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
