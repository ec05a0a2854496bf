"""Backbone: voxels (batch, voxels) -> tokens (batch, tokens, dim).

A residual MLP (MindEye, section 3.1 and the appendix's pseudo-code, with the biases that the
released weights have): an input layer from the subject's voxels, residual blocks at constant width,
and one linear layer to all tokens at once, which holds most of the model's parameters.
"""

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from mindeye_dist.model_config import BackboneConfig


class Backbone(nn.Module):
    """Residual MLP from one subject's voxels to tokens.

    Args:
        config: width, depth and dropout.
        num_voxels: length of the subject's voxel vector.
        num_tokens: tokens of the target (257 for ViT-L/14).
        dim: width of a token (768 for ViT-L/14).
    """

    def __init__(self, config: BackboneConfig, num_voxels: int, num_tokens: int, dim: int) -> None:
        super().__init__()
        self.num_tokens = num_tokens
        self.input = _block(num_voxels, config.hidden, config.input_dropout)
        self.blocks = nn.ModuleList(
            _block(config.hidden, config.hidden, config.block_dropout)
            for _ in range(config.num_blocks)
        )
        self.output = nn.Linear(config.hidden, num_tokens * dim)

    def forward(self, voxels: Float[Tensor, "batch voxels"]) -> Float[Tensor, "batch tokens dim"]:
        """Return the tokens that condition the prior and feed the projector (not normalised)."""
        x = self.input(voxels)
        for block in self.blocks:
            x = x + block(x)
        return rearrange(
            self.output(x), "batch (tokens dim) -> batch tokens dim", tokens=self.num_tokens
        )


def _block(width_in: int, width_out: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width_in, width_out), nn.LayerNorm(width_out), nn.GELU(), nn.Dropout(dropout)
    )
