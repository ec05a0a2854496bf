"""Teachers of the low-level contrastive loss: pictures in, a square map of tokens out.

A teacher's tokens (batch, side_of_map^2, dim) go row by row and have no summary token in front; the
low-level head learns to describe a picture place by place as the teacher does. Published MindEye
uses a ConvNeXt-XL trained by VICRegL (Bardes et al. 2022) on 512-pixel pictures (Scotti et al.
2023, section 3.2); the demo uses its encoder's own map (`frozen.EncoderMap`).
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from mindeye_dist.frozen.codecs import Images, load_strictly, resize
from mindeye_dist.frozen.encoders import digest_of

STRIDE = 32
"""Pixels of a picture, each way, that make one token."""
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
PUBLISHED_STD = (0.228, 0.224, 0.225)
"""Standard deviation by which the published training divides; its .228 is a slip for .229."""

Tokens = Float[Tensor, "batch tokens dim"]


@dataclass(frozen=True, kw_only=True)
class ConvNextSize:
    """Blocks and channels of ConvNeXt's four stages, and the width of its map projector."""

    depths: tuple[int, ...] = (3, 3, 27, 3)
    dims: tuple[int, ...] = (256, 512, 1024, 2048)
    width: int = 512


CONVNEXT_XL = ConvNextSize()


class ConvNextMap(nn.Module):
    """ConvNeXt's last map (Liu et al. 2022, without layer scale), each place through an MLP.

    Normalised pixels (batch, 3, 32 side, 32 side) -> (batch, side^2, width). The MLP is twice
    Linear, LayerNorm, ReLU, then Linear without bias.
    """

    def __init__(self, size: ConvNextSize = CONVNEXT_XL) -> None:
        super().__init__()
        from timm.models.convnext import ConvNeXt

        self.trunk = ConvNeXt(depths=size.depths, dims=size.dims, ls_init_value=None, num_classes=0)
        # The norm of the pooled vector, which the map does not pass.
        del self.trunk.head
        self.projector = nn.Sequential(
            nn.Linear(size.dims[-1], size.width),
            nn.LayerNorm(size.width),
            nn.ReLU(),
            nn.Linear(size.width, size.width),
            nn.LayerNorm(size.width),
            nn.ReLU(),
            nn.Linear(size.width, size.width, bias=False),
        )

    def forward(self, pixels: Images) -> Tokens:
        """Return the projected map, row by row."""
        grid = self.trunk.forward_features(pixels)
        return self.projector(rearrange(grid, "batch dim height width -> batch (height width) dim"))


class ConvNextTeacher:
    """ConvNeXt-XL with its map projector, an `ImageEncoder`: 512 pixels -> 256 tokens of 512.

    The weights are a safetensors file of a `ConvNextMap`'s state dict: `trunk.` and the keys of
    timm's ConvNeXt without its head, and `projector.0`, `.1`, `.3`, `.4`, `.6`. The published
    VICRegL checkpoint names its tensors otherwise and has to be renamed to this layout first.

    Args:
        weights: That file, or the seed of random weights for tests and dry runs.
        size: Blocks and channels; ConvNeXt-XL's by default.
        side_of_map: Rows and columns of the map; pictures are scaled to 32 pixels a token.
        published_std: Divide by the published .228 instead of .229, for parity.
        device: Where to compute; images are moved there.

    Raises:
        InputError: The file is missing, damaged, or holds other tensors.
    """

    def __init__(
        self,
        weights: Path | int,
        *,
        size: ConvNextSize = CONVNEXT_XL,
        side_of_map: int = 16,
        published_std: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        std = PUBLISHED_STD if published_std else IMAGENET_STD
        self.side_of_map, self.num_tokens, self.dim = side_of_map, side_of_map**2, size.width
        self.name = f"convnext-map{side_of_map}"
        network = _random(size, weights) if isinstance(weights, int) else ConvNextMap(size)
        if isinstance(weights, Path):
            load_strictly(network, weights)
        constants = f"{self.name} {size} {IMAGENET_MEAN} {std} bilinear"
        self.digest = digest_of(constants, network.state_dict())
        self._network = network.eval().requires_grad_(False).to(device)
        self._mean = torch.tensor(IMAGENET_MEAN, device=device)[:, None, None]
        self._std = torch.tensor(std, device=device)[:, None, None]
        self._device = device

    @torch.no_grad()
    def __call__(self, images: Images) -> Tokens:
        """Encode images with values in [0, 1] of any size."""
        pixels = resize(images.to(self._device), STRIDE * self.side_of_map)
        return self._network((pixels - self._mean) / self._std)


def _random(size: ConvNextSize, seed: int) -> ConvNextMap:
    """Return random weights that depend on the seed alone, and leave torch's generator alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ConvNextMap(size)
