"""Projector: backbone tokens -> tokens of the contrastive space, (batch, tokens, dim) both.

The same small MLP for every token (MindEye, section 3.1). Its output is what retrieval compares.
"""

from jaxtyping import Float
from torch import Tensor, nn

from mindeye_dist.model_config import ProjectorConfig


class Projector(nn.Module):
    """Three-layer MLP shared by all tokens."""

    def __init__(self, config: ProjectorConfig, dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(dim),
            nn.GELU(),
            nn.Linear(dim, config.hidden),
            nn.LayerNorm(config.hidden),
            nn.GELU(),
            nn.Linear(config.hidden, config.hidden),
            nn.LayerNorm(config.hidden),
            nn.GELU(),
            nn.Linear(config.hidden, dim),
        )

    def forward(
        self, tokens: Float[Tensor, "batch tokens dim"]
    ) -> Float[Tensor, "batch tokens dim"]:
        """Return tokens that are compared with clip_tokens by cosine (not normalised here)."""
        return self.layers(tokens)
