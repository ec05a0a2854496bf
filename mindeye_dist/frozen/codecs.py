"""Latent codecs: pictures in, latents out, and back.

The low-level pathway predicts the latents (batch, channels, height, width) of a picture and their
decoding is the blurry reconstruction. Published MindEye uses Stable Diffusion's KL-f8 autoencoder
(Rombach et al. 2022): 4 x 64 x 64 for 512 pixels (Scotti et al. 2023, section 3.2 and appendix).
The demo needs no weights: its latents are the picture itself, small.
"""

import math
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from mindeye_dist.errors import InputError
from mindeye_dist.frozen.encoders import digest_of
from mindeye_dist.frozen.pretrained import load_part

Images = Float[Tensor, "batch 3 height width"]
Latents = Float[Tensor, "batch channels rows columns"]
Network = TypeVar("Network", bound=nn.Module)


@runtime_checkable
class LatentCodec(Protocol):
    """Interface of a codec: pictures <-> latents."""

    name: str
    digest: str
    """Hex digest over weights and preprocessing: it changes whenever the outputs could change."""
    side: int
    """Width and height of the pictures that are encoded (pixels)."""
    shape: tuple[int, int, int]
    """Channels, height and width of one picture's latents."""

    def encode(self, images: Images) -> Latents:
        """Encode images with values in [0, 1] of any size."""
        ...

    def decode(self, latents: Latents) -> Images:
        """Return the pictures that latents stand for, (batch, 3, side, side) in [0, 1]."""
        ...


def resize(images: Images, side: int) -> Float[Tensor, "batch 3 side side"]:
    """Scale images to `side` x `side`, bilinearly and antialiased, whatever their proportions."""
    return functional.interpolate(
        images.float(), (side, side), mode="bilinear", antialias=True, align_corners=False
    )


class PixelCodec:
    """The picture itself, averaged down to `side` x `side` and centred: values in [-1, 1]."""

    name = "pixels"

    def __init__(self, side: int) -> None:
        self.side = side
        self.shape = (3, side, side)
        self.digest = digest_of(f"{self.name} {side} area 2x-1", {})

    @torch.no_grad()
    def encode(self, images: Images) -> Latents:
        """Encode images with values in [0, 1] of any size."""
        check_finite(images, f"{self.name}: images")
        return 2 * functional.adaptive_avg_pool2d(images.float(), self.side) - 1

    @torch.no_grad()
    def decode(self, latents: Latents) -> Images:
        """Return the pictures that latents stand for, (batch, 3, side, side) in [0, 1].

        Raises:
            InputError: the latents have another shape or are not finite.
        """
        check_latents(self, latents)
        return unit_range(latents.float())


class AutoencoderKLCodec:
    """A KL autoencoder of diffusers: the posterior's mode, times the scaling factor.

    The scaling factor (0.18215 for Stable Diffusion's) comes from the autoencoder's config.

    Args:
        source: Folder in the layout of `save_pretrained`, or a name on the Hugging Face hub; only
            safetensors weights are read.
        subfolder: Where in `source` the autoencoder is ("vae" in a whole pipeline).
        side: Width and height of the pictures that are encoded (pixels).
        device: Where to compute; images and latents are moved there.

    Raises:
        InputError: There is no such autoencoder, its weights do not fit its config, or `side` is
            no multiple of its downsampling.
    """

    name = "autoencoder-kl"

    def __init__(
        self,
        source: str | Path,
        *,
        subfolder: str = "",
        side: int = 512,
        device: torch.device | str = "cpu",
    ) -> None:
        from diffusers import AutoencoderKL

        vae = load_part(AutoencoderKL, source, subfolder)
        self.side = side
        self.shape = latent_shape(vae, side)
        self._scale = float(vae.config.scaling_factor)
        self.digest = digest_of(f"{self.name} {side} {self._scale} 2x-1 mode", vae.state_dict())
        self._vae = vae.eval().requires_grad_(False).to(device)
        self._device = device

    @torch.no_grad()
    def encode(self, images: Images) -> Latents:
        """Encode images with values in [0, 1] of any size."""
        check_finite(images, f"{self.name}: images")
        pixels = 2 * resize(images.to(self._device), self.side) - 1
        return self._vae.encode(pixels).latent_dist.mode() * self._scale

    @torch.no_grad()
    def decode(self, latents: Latents) -> Images:
        """Return the pictures that latents stand for, (batch, 3, side, side) in [0, 1].

        Raises:
            InputError: the latents have another shape or are not finite.
        """
        check_latents(self, latents)
        return unit_range(self._vae.decode(latents.float().to(self._device) / self._scale).sample)


def latent_shape(vae: Any, side: int) -> tuple[int, int, int]:
    """Return channels, height and width of an AutoencoderKL's latents for a square picture.

    Raises:
        InputError: `side` is no multiple of the downsampling.
    """
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    if side < factor or side % factor:
        raise InputError(f"autoencoder-kl: got side {side}, expected a multiple of {factor}")
    return (vae.config.latent_channels, side // factor, side // factor)


def load_strictly(network: Network, path: Path) -> Network:
    """Fill a network with a safetensors file's tensors and return it.

    Raises:
        InputError: the file is missing, damaged, or holds other tensors; the message lists them.
    """
    try:
        network.load_state_dict(load_file(path), strict=True)
    except (OSError, SafetensorError, RuntimeError) as error:
        # torch's message has a line for the missing and one for the unexpected.
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: the weights cannot be loaded: {reason}") from error
    return network


def unit_range(pixels: Images) -> Images:
    """Bring pixels from [-1, 1] to [0, 1]."""
    return (pixels / 2 + 0.5).clamp(0, 1)


def check_latents(codec: LatentCodec, latents: Tensor) -> None:
    """Check that latents have the codec's shape and are finite.

    Raises:
        InputError: they are not.
    """
    if tuple(latents.shape[1:]) != codec.shape:
        expected = "(batch, " + ", ".join(str(size) for size in codec.shape) + ")"
        message = f"{codec.name}: got latents {tuple(latents.shape)}, expected {expected}"
        raise InputError(message)
    check_finite(latents, f"{codec.name}: latents")


def check_finite(values: Tensor, what: str) -> None:
    """Check that values are finite.

    Raises:
        InputError: some are not; the message says of what, and how many.
    """
    bad = int((~torch.isfinite(values)).sum())
    if bad:
        size = math.prod(values.shape)
        raise InputError(f"{what}: {bad} of {size} values are not finite")
