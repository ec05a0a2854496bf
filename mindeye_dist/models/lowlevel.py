"""Low-level network: voxels (batch, voxels) -> VAE latents (batch, channels, height, width).

MindEye's second pipeline (Scotti et al. 2023, section 3.4): a residual MLP makes a small feature
map, and the decoder half of a VAE enlarges it to the latents of a blurry picture, from which
img2img starts. While training, a head of 1x1 convolutions compares the map with the features of a
self-supervised teacher.
"""

import math
from dataclasses import dataclass

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from mindeye_dist.errors import InputError
from mindeye_dist.model_config import LowLevelConfig

NORM_GROUPS = 32


@dataclass(frozen=True)
class LowLevelOutputs:
    """Outputs of the low-level model.

    Attributes:
        latents: VAE latents, in the scale of the targets.
        feature_map: one vector for each cell of the map, row by row, not normalised.
    """

    latents: Float[Tensor, "batch channels height width"]
    feature_map: Float[Tensor, "batch tokens dim"]


class LowLevel(nn.Module):
    """One subject's decoder from voxels to the latents of a blurry picture.

    Args:
        config: widths, depth and dropout.
        num_voxels: length of the subject's voxel vector.
        latent_shape: channels, height and width of the latents (4, 64, 64 for Stable Diffusion).
        feature_dim: width of the teacher's features (512 in the published model).

    Raises:
        InputError: the upsampler cannot reach the latents' height and width.
    """

    def __init__(
        self,
        config: LowLevelConfig,
        num_voxels: int,
        latent_shape: tuple[int, int, int],
        feature_dim: int,
    ) -> None:
        super().__init__()
        channels, *sides = latent_shape
        self.map_shape = (config.map_channels, *map_sides(config, sides))
        hidden = config.hidden
        self.input = _block(num_voxels, hidden, config.input_dropout)
        self.blocks = nn.ModuleList(
            _block(hidden, hidden, config.block_dropout) for _ in range(config.num_blocks)
        )
        self.output = nn.Linear(hidden, math.prod(self.map_shape), bias=False)
        self.norm = nn.GroupNorm(1, config.map_channels)
        self.upsampler = _upsampler(config, channels)
        self.head = _head(config.map_channels, config.head_hidden, feature_dim)

    def forward(self, voxels: Float[Tensor, "batch voxels"]) -> LowLevelOutputs:
        """Return the latents, and the head's features of the map for the contrastive loss."""
        count = len(voxels)
        if count == 0:  # a rank's part of a small batch; diffusers' attention needs a sample
            voxels = voxels.new_zeros(1, voxels.shape[1])
        feature_map = self._map(voxels)
        features = rearrange(
            self.head(feature_map), "batch dim height width -> batch (height width) dim"
        )
        return LowLevelOutputs(
            latents=self.upsampler(feature_map)[:count], feature_map=features[:count].contiguous()
        )

    def latents(
        self, voxels: Float[Tensor, "batch voxels"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Return the latents alone; the head serves training only."""
        return self.upsampler(self._map(voxels))

    def _map(
        self, voxels: Float[Tensor, "batch voxels"]
    ) -> Float[Tensor, "batch map_channels rows columns"]:
        x = self.input(voxels)
        for block in self.blocks:
            x = x + block(x)
        return self.norm(self.output(x).unflatten(1, self.map_shape))


def map_sides(config: LowLevelConfig, latent_sides: list[int]) -> tuple[int, int]:
    """Return height and width of the map: every stage of the upsampler but the last doubles them.

    Raises:
        InputError: a side of the latents is no multiple of that.
    """
    factor = 2 ** (len(config.upsampler_channels) - 1)
    if any(side < factor or side % factor for side in latent_sides):
        raise InputError(
            f"latents: got height and width {tuple(latent_sides)}, expected multiples of {factor} "
            f"for an upsampler of {len(config.upsampler_channels)} stages"
        )
    height, width = (side // factor for side in latent_sides)
    return height, width


def _block(width_in: int, width_out: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width_in, width_out, bias=False),
        nn.LayerNorm(width_out),
        nn.SiLU(),
        nn.Dropout(dropout),
    )


def _upsampler(config: LowLevelConfig, latent_channels: int) -> nn.Module:
    """Return a VAE decoder; its groups are the published 32 wherever they divide all widths."""
    from diffusers.models.autoencoders.vae import Decoder

    channels = config.upsampler_channels
    return Decoder(
        in_channels=config.map_channels,
        out_channels=latent_channels,
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        block_out_channels=channels,
        layers_per_block=1,
        norm_num_groups=math.gcd(NORM_GROUPS, *channels),
    )


def _head(map_channels: int, hidden: int, feature_dim: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(map_channels, hidden, 1, bias=False),
        nn.GroupNorm(1, hidden),
        nn.ReLU(),
        nn.Conv2d(hidden, hidden, 1, bias=False),
        nn.GroupNorm(1, hidden),
        nn.ReLU(),
        nn.Conv2d(hidden, feature_dim, 1),
    )
