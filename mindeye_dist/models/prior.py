"""Prior network: (noisy tokens, timestep, condition) -> clean tokens, (batch, tokens, dim) each.

A non-causal transformer over [condition tokens; time token; noisy tokens with learned positions]
that predicts x_0 in the space scaled by sqrt(dim) (MindEye, section 3.2; DALL-E 2's prior, Ramesh
et al. 2022). Attention is multi-query with a learned null key, cosine logits, rotary positions and
a T5 relative bias shared by all layers.
"""

import math

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from mindeye_dist.model_config import PriorConfig
from mindeye_dist.models.diffusion import NoiseSchedule, cosine_schedule

COSINE_LOGIT_SCALE = 16.0
ROTARY_DIM = 32
BIAS_BUCKETS = 32
BIAS_MAX_DISTANCE = 128


class Prior(nn.Module):
    """Predicts clean tokens from noisy ones, conditioned on the backbone's tokens."""

    def __init__(self, config: PriorConfig, num_tokens: int, dim: int) -> None:
        super().__init__()
        self.schedule: NoiseSchedule = cosine_schedule(config.timesteps)
        self.scale = math.sqrt(dim)
        self.position = nn.Parameter(torch.randn(num_tokens, dim) * dim**-0.5)
        self.null_condition = nn.Parameter(torch.randn(num_tokens, dim))
        self.null_tokens = nn.Parameter(torch.randn(num_tokens, dim))
        self.time_mlp = nn.Sequential(
            nn.Linear(dim, 2 * dim),
            nn.SiLU(),
            nn.Linear(2 * dim, 2 * dim),
            nn.SiLU(),
            nn.Linear(2 * dim, dim),
        )
        self.relative_bias = nn.Embedding(BIAS_BUCKETS, config.heads)
        self.layers = nn.ModuleList(Layer(config, dim) for _ in range(config.depth))
        self.norm = GainNorm(dim, stable=True)
        self.output = nn.Linear(dim, dim, bias=False)

    def forward(
        self,
        x_t: Float[Tensor, "batch tokens dim"],
        timestep: Int[Tensor, " batch"],
        condition: Float[Tensor, "batch tokens dim"],
        drop_condition: Bool[Tensor, " batch"] | None = None,
        drop_tokens: Bool[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch tokens dim"]:
        """Return the predicted x_0 (times sqrt(dim)).

        Args:
            x_t: noisy tokens, in the space scaled by sqrt(dim).
            timestep: 0 (almost clean) .. T-1 (noise).
            condition: the backbone's tokens.
            drop_condition: samples whose condition is replaced by the null table.
            drop_tokens: samples whose noisy tokens are replaced by the null table.
        """
        if drop_condition is not None:
            condition = torch.where(drop_condition[:, None, None], self.null_condition, condition)
        if drop_tokens is not None:
            x_t = torch.where(drop_tokens[:, None, None], self.null_tokens, x_t)
        time = self.time_mlp(sinusoidal_embedding(timestep, x_t.shape[-1]).to(x_t.dtype))
        x = torch.cat([condition, time[:, None], x_t + self.position], dim=1)
        bias = self._bias(x.shape[1])
        *earlier, last = self.layers
        for layer in earlier:
            x = layer(x, bias)
        # Of the last layer only the tokens' own positions are used: the rest is not computed.
        return self.output(self.norm(last(x, bias, x_t.shape[1])))

    def _bias(self, length: int) -> Float[Tensor, "heads length keys"]:
        buckets = relative_buckets(length, length + 1).to(self.relative_bias.weight.device)
        return rearrange(self.relative_bias(buckets), "length keys heads -> heads length keys")


class Layer(nn.Module):
    """Attention, then feed-forward, each added to the residual stream."""

    def __init__(self, config: PriorConfig, dim: int, inner_norm: bool = False) -> None:
        super().__init__()
        self.attention = Attention(config, dim)
        self.feed_forward = feed_forward(config, dim, inner_norm)

    def forward(
        self,
        x: Float[Tensor, "batch length dim"],
        bias: Float[Tensor, "heads length keys"],
        num_kept: int | None = None,
    ) -> Float[Tensor, "batch kept dim"]:
        """Return the residual stream after this layer, of the last `num_kept` positions or all."""
        kept = x if num_kept is None else x[:, -num_kept:]
        kept = kept + self.attention(x, bias, num_kept)
        return kept + self.feed_forward(kept)


class Attention(nn.Module):
    """Multi-query cosine attention with one learned null key and value in front."""

    def __init__(self, config: PriorConfig, dim: int) -> None:
        super().__init__()
        heads, head_dim = config.heads, config.head_dim
        self.heads = heads
        self.norm = GainNorm(dim)
        self.null_kv = nn.Parameter(torch.randn(2, head_dim))
        self.query = nn.Linear(dim, heads * head_dim, bias=False)
        self.key_value = nn.Linear(dim, 2 * head_dim, bias=False)
        self.output = nn.Linear(heads * head_dim, dim, bias=False)
        self.output_norm = GainNorm(dim)

    def forward(
        self,
        x: Float[Tensor, "batch length dim"],
        bias: Float[Tensor, "heads length keys"],
        num_kept: int | None = None,
    ) -> Float[Tensor, "batch kept dim"]:
        """Return the attention's contribution to the last `num_kept` positions, or to all."""
        x = self.norm(x)
        first = 0 if num_kept is None else x.shape[1] - num_kept
        query = rearrange(
            self.query(x[:, first:]), "batch kept (heads d) -> batch heads kept d", heads=self.heads
        )
        key, value = self.key_value(x).chunk(2, dim=-1)  # (batch, length, d), shared by all heads
        query, key = rotate(query, first), rotate(key)
        null_key, null_value = repeat(self.null_kv, "kv d -> kv batch 1 d", batch=len(x))
        key = functional.normalize(torch.cat([null_key, key], dim=1), dim=-1)
        value = torch.cat([null_value, value], dim=1)
        attended = functional.scaled_dot_product_attention(
            functional.normalize(query, dim=-1),
            key[:, None].expand(-1, self.heads, -1, -1),
            value[:, None].expand(-1, self.heads, -1, -1),
            # With an axis for the batch, CPUs have a fused kernel for it where nothing is trained.
            attn_mask=bias[:, first:].to(query.dtype)[None],
            scale=COSINE_LOGIT_SCALE,
        )
        return self.output_norm(
            self.output(rearrange(attended, "batch heads kept d -> batch kept (heads d)"))
        )


class GainNorm(nn.Module):
    """LayerNorm with a gain and no bias; `stable` divides by the largest entry first."""

    def __init__(self, dim: int, stable: bool = False) -> None:
        super().__init__()
        self.stable = stable
        self.gain = nn.Parameter(torch.ones(dim))

    def forward(self, x: Float[Tensor, "batch length dim"]) -> Float[Tensor, "batch length dim"]:
        """Return x normalised over its last axis."""
        if self.stable:
            # The clamp keeps the sign: a largest entry below zero would flip it.
            x = x / x.amax(dim=-1, keepdim=True).detach().clamp(min=1e-6)
        return functional.layer_norm(x, self.gain.shape, self.gain.to(x.dtype))


class SwiGLU(nn.Module):
    """x * SiLU(gate), the two halves of the last axis."""

    def forward(
        self, x: Float[Tensor, "batch length two_hidden"]
    ) -> Float[Tensor, "batch length hidden"]:
        """Return half as many channels."""
        value, gate = x.chunk(2, dim=-1)
        return value * functional.silu(gate)


def feed_forward(config: PriorConfig, dim: int, inner_norm: bool = False) -> nn.Sequential:
    """Return the pre-norm SwiGLU block of a layer; `inner_norm` adds NormFormer's second norm."""
    hidden = config.feedforward_factor * dim
    return nn.Sequential(
        GainNorm(dim),
        nn.Linear(dim, 2 * hidden, bias=False),
        SwiGLU(),
        *([GainNorm(hidden)] if inner_norm else []),
        nn.Linear(hidden, dim, bias=False),
    )


def sinusoidal_embedding(timestep: Int[Tensor, " batch"], dim: int) -> Float[Tensor, "batch dim"]:
    """Return sin and cos of the timestep at dim/2 frequencies from 1 to 1/10000.

    Of an odd dim the last number is 0.
    """
    half = dim // 2
    frequency = torch.exp(
        torch.arange(half, device=timestep.device) * -(math.log(10000) / max(half - 1, 1))
    )
    angle = timestep[:, None].float() * frequency[None]
    return functional.pad(torch.cat([angle.sin(), angle.cos()], dim=-1), (0, dim % 2))


def rotate(x: Float[Tensor, "*batch length d"], first: int = 0) -> Float[Tensor, "*batch length d"]:
    """Apply rotary positions to the first 32 channels, in interleaved pairs (Su et al. 2021).

    `first` is the position of the first row.
    """
    width = min(ROTARY_DIM, x.shape[-1])
    frequency = 10000 ** (-torch.arange(0, width, 2, device=x.device) / width)
    positions = torch.arange(first, first + x.shape[-2], device=x.device)
    angle = positions[:, None] * frequency  # (length, width/2)
    # A pair is a complex number, and turning it one product.
    pairs = torch.view_as_complex(x[..., :width].float().unflatten(-1, (-1, 2)).contiguous())
    turned = torch.view_as_real(pairs * torch.polar(torch.ones_like(angle), angle)).flatten(-2)
    rest = x[..., width:]
    return torch.cat([turned.to(x.dtype), rest], dim=-1) if rest.shape[-1] else turned.to(x.dtype)


def relative_buckets(queries: int, keys: int) -> Int[Tensor, "queries keys"]:
    """Return T5's causal buckets (Raffel et al. 2020): all keys ahead of the query share bucket 0.

    Keys are counted from the null key, as the published model does.
    """
    distance = (torch.arange(queries)[:, None] - torch.arange(keys)[None]).clamp(min=0)
    exact = BIAS_BUCKETS // 2
    ratio = torch.log(distance.clamp(min=1) / exact) / math.log(BIAS_MAX_DISTANCE / exact)
    far = (exact + (ratio * (BIAS_BUCKETS - exact)).long()).clamp(max=BIAS_BUCKETS - 1)
    return torch.where(distance < exact, distance, far)
