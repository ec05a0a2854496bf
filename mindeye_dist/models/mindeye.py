"""MindEye's high-level pipeline: backbone, projector and prior in one forward.

voxels (batch, voxels) -> backbone tokens -> projected tokens (retrieval) and, from noisy
clip_tokens, the prior's estimate of the clean ones (reconstruction); all (batch, tokens, dim).
Scotti et al. (2023), figure 2.
"""

from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mindeye_dist.errors import InputError
from mindeye_dist.model_config import ModelConfig, PriorConfig
from mindeye_dist.models.backbone import Backbone
from mindeye_dist.models.diffusion import add_noise
from mindeye_dist.models.prior import Prior
from mindeye_dist.models.projector import Projector
from mindeye_dist.models.query_prior import QueryPrior


@dataclass(frozen=True)
class PriorDraw:
    """The random part of the prior's training step, one entry a sample.

    Attributes:
        timestep: 0..T-1.
        noise: standard normal.
        drop_condition: replace the condition by the null table.
        drop_tokens: replace the noisy tokens by the null table.
    """

    timestep: Int[Tensor, " batch"]
    noise: Float[Tensor, "batch tokens dim"]
    drop_condition: Bool[Tensor, " batch"]
    drop_tokens: Bool[Tensor, " batch"]


@dataclass(frozen=True)
class Outputs:
    """Outputs of the high-level model.

    Attributes:
        projected: tokens in the contrastive space, not normalised.
        pred_x_0: the prior's estimate of sqrt(dim) * clip_tokens.
    """

    projected: Float[Tensor, "batch tokens dim"]
    pred_x_0: Float[Tensor, "batch tokens dim"]


class MindEye(nn.Module):
    """One subject's decoder from voxels to clip_tokens."""

    def __init__(self, config: ModelConfig, num_voxels: int, num_tokens: int, dim: int) -> None:
        super().__init__()
        self.backbone = Backbone(config.backbone, num_voxels, num_tokens, dim)
        self.projector = Projector(config.projector, dim)
        self.prior = build_prior(config.prior, num_tokens, dim)

    def tokens(self, voxels: Float[Tensor, "batch voxels"]) -> Float[Tensor, "batch tokens dim"]:
        """Return the backbone's tokens, the input of the projector and the prior's condition."""
        return self.backbone(voxels)

    def forward(
        self,
        voxels: Float[Tensor, "batch voxels"],
        clip_tokens: Float[Tensor, "batch tokens dim"],
        draw: PriorDraw,
    ) -> Outputs:
        """Return everything that the objective needs, for one batch of voxels and its targets."""
        tokens = self.tokens(voxels)
        x_t = add_noise(
            self.prior.schedule, self.prior.scale * clip_tokens, draw.timestep, draw.noise
        )
        return Outputs(
            projected=self.projector(tokens),
            pred_x_0=self.prior(
                x_t.to(tokens.dtype), draw.timestep, tokens, draw.drop_condition, draw.drop_tokens
            ),
        )


def build_prior(config: PriorConfig, num_tokens: int, dim: int) -> Prior | QueryPrior:
    """Return the prior of the configured form.

    Raises:
        InputError: the form is for one token, and the targets have more.
    """
    if config.form == "tokens":
        return Prior(config, num_tokens, dim)
    if num_tokens != 1:
        raise InputError(f"model.prior.form: got 'query' and {num_tokens} tokens, expected 1 token")
    return QueryPrior(config, dim)
