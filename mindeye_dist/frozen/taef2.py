"""TAEF2: the tiny autoencoder of the FLUX.2 latent space."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from mindeye_dist.errors import InputError
from mindeye_dist.frozen.codecs import (
    Images,
    Latents,
    check_finite,
    check_latents,
    load_strictly,
    resize,
)
from mindeye_dist.frozen.encoders import digest_of


class TAEF2Codec:
    """The tiny autoencoder of FLUX.2's latent space: 32 channels at an eighth of the side.

    Latents have about unit scale. Weights: `taef2_encoder.safetensors` and
    `taef2_decoder.safetensors`, converted from madebyollin/taesd (MIT), whose keys are positions in
    a sequence of layers.

    Args:
        folder: Where both files are.
        side: Width and height of the pictures that are encoded (pixels).
        device: Where to compute; images and latents are moved there.

    Raises:
        InputError: A file is missing or holds other tensors, or `side` is no multiple of 8.
    """

    name = "taef2"

    def __init__(
        self, folder: Path, side: int = 128, *, device: torch.device | str = "cpu"
    ) -> None:
        if side < 8 or side % 8:
            raise InputError(f"{self.name}: got side {side}, expected a multiple of 8")
        self.side = side
        self.shape = (32, side // 8, side // 8)
        self._encoder = load_strictly(_taef2_encoder(), folder / "taef2_encoder.safetensors")
        self._decoder = load_strictly(_taef2_decoder(), folder / "taef2_decoder.safetensors")
        both = nn.ModuleDict({"encoder": self._encoder, "decoder": self._decoder})
        self.digest = digest_of(f"{self.name} {side}", both.state_dict())
        both.eval().requires_grad_(False).to(device)
        self._device = device

    @torch.no_grad()
    def encode(self, images: Images) -> Latents:
        """Encode images with values in [0, 1] of any size."""
        check_finite(images, f"{self.name}: images")
        return self._encoder(resize(images.to(self._device), self.side))

    @torch.no_grad()
    def decode(self, latents: Latents) -> Images:
        """Return the pictures that latents stand for, (batch, 3, side, side) in [0, 1].

        Raises:
            InputError: the latents have another shape or are not finite.
        """
        check_latents(self, latents)
        return self._decoder(latents.float().to(self._device)).clamp(0, 1)


class _SoftClamp(nn.Module):
    """Bound latents smoothly to +-3, as the decoder saw them in training."""

    def forward(self, latents: Latents) -> Latents:
        return 3 * torch.tanh(latents / 3)


class _TinyBlock(nn.Module):
    """Three 3x3 convolutions with a skip; attribute names are the keys of the weight files.

    `pool`, in the blocks at the latents' resolution, adds what a GroupNorm over the whole picture
    says of it first.
    """

    def __init__(self, *, pools: bool = False) -> None:
        super().__init__()
        self.conv = nn.Sequential(_conv(64, 64), nn.ReLU(), _conv(64, 64), nn.ReLU(), _conv(64, 64))
        self.pool: nn.Module | None = None
        if pools:
            self.pool = nn.Sequential(
                nn.Conv2d(64, 256, 1, bias=False),
                nn.GroupNorm(4, 256),
                nn.ReLU(),
                nn.Conv2d(256, 64, 1, bias=False),
            )

    def forward(
        self, x: Float[Tensor, "batch 64 height width"]
    ) -> Float[Tensor, "batch 64 height width"]:
        if self.pool is not None:
            x = x + self.pool(x)
        return functional.relu(self.conv(x) + x)


def _conv(channels: int, out: int, *, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(channels, out, 3, stride=stride, padding=1, bias=bias)


def _taef2_encoder() -> nn.Sequential:
    layers: list[nn.Module] = [_conv(3, 64), _TinyBlock()]
    for stage in range(3):
        layers.append(_conv(64, 64, stride=2, bias=False))
        layers += [_TinyBlock(pools=stage == 2) for _ in range(3)]
    return nn.Sequential(*layers, _conv(64, 32))


def _taef2_decoder() -> nn.Sequential:
    layers: list[nn.Module] = [_SoftClamp(), _conv(32, 64), nn.ReLU()]
    for stage in range(3):
        layers += [_TinyBlock(pools=stage == 0) for _ in range(3)]
        layers += [nn.Upsample(scale_factor=2), _conv(64, 64, bias=False)]
    return nn.Sequential(*layers, _TinyBlock(), _conv(64, 3))
