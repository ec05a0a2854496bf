"""Prior network of DALL-E 2: (noisy embedding, timestep, condition) -> clean embedding.

All are (batch, 1, dim). It is the prior of the published 1 x 768 model (Scotti et al. 2023, section
3.2; Ramesh et al. 2022): a causal transformer over [learned padding, where a caption would stand;
condition; time; noisy embedding; learned query] whose last token is the prediction of x_0, in the
space scaled by sqrt(dim).
"""

import math

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mindeye_dist.model_config import PriorConfig
from mindeye_dist.models.diffusion import NoiseSchedule, cosine_schedule
from mindeye_dist.models.prior import BIAS_BUCKETS, GainNorm, Layer, relative_buckets


class QueryPrior(nn.Module):
    """Predicts one clean embedding from a noisy one, conditioned on the backbone's token."""

    def __init__(self, config: PriorConfig, dim: int) -> None:
        super().__init__()
        self.schedule: NoiseSchedule = cosine_schedule(config.timesteps)
        self.scale = math.sqrt(dim)
        self.query = nn.Parameter(torch.randn(dim))
        self.padding = nn.Parameter(torch.randn(1, config.padding_tokens, dim))
        self.null_condition = nn.Parameter(torch.randn(1, 1, dim))
        self.null_tokens = nn.Parameter(torch.randn(1, dim))
        self.time = nn.Embedding(config.timesteps, dim)
        self.relative_bias = nn.Embedding(BIAS_BUCKETS, config.heads)
        self.layers = nn.ModuleList(
            Layer(config, dim, inner_norm=True) for _ in range(config.depth)
        )
        self.norm = GainNorm(dim, stable=True)
        self.output = nn.Linear(dim, dim, bias=False)

    def forward(
        self,
        x_t: Float[Tensor, "batch 1 dim"],
        timestep: Int[Tensor, " batch"],
        condition: Float[Tensor, "batch 1 dim"],
        drop_condition: Bool[Tensor, " batch"] | None = None,
        drop_tokens: Bool[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch 1 dim"]:
        """Return the predicted x_0 (times sqrt(dim)); the arguments are `Prior.forward`'s."""
        if drop_condition is not None:
            condition = torch.where(drop_condition[:, None, None], self.null_condition, condition)
        if drop_tokens is not None:
            x_t = torch.where(drop_tokens[:, None, None], self.null_tokens, x_t)
        time = self.time(timestep)[:, None].to(x_t.dtype)
        padding = self.padding.expand(len(x_t), -1, -1)
        query = self.query.expand(len(x_t), 1, -1)
        x = torch.cat([padding, condition, time, x_t, query], dim=1)
        bias = self._bias(x.shape[1])
        for layer in self.layers:
            x = layer(x, bias)
        # Over the last token alone: the norm and the output act on each token by itself.
        return self.output(self.norm(x[:, -1:]))

    def _bias(self, length: int) -> Float[Tensor, "heads length keys"]:
        """Return the relative bias, -inf for keys that lie ahead; key 0 is the null key."""
        device = self.relative_bias.weight.device
        buckets = relative_buckets(length, length + 1).to(device)
        bias = rearrange(self.relative_bias(buckets), "length keys heads -> heads length keys")
        ahead = torch.ones(length, length + 1, dtype=torch.bool, device=device).triu(2)
        return bias.masked_fill(ahead, float("-inf"))
