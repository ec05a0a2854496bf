"""Codecs by name, as targets and generators' files name them."""

from pathlib import Path

import torch

from mindeye_dist.errors import InputError
from mindeye_dist.frozen.codecs import AutoencoderKLCodec, LatentCodec, PixelCodec
from mindeye_dist.frozen.small_autoencoder import SCENES_AUTOENCODER, SmallAutoencoder
from mindeye_dist.frozen.taef2 import TAEF2Codec


def open_codec(
    name: str,
    source: str,
    shape: tuple[int, ...],
    device: torch.device | str = "cpu",
    *,
    subfolder: str = "",
) -> LatentCodec:
    """Return the codec of a name whose latents have a shape.

    Args:
        name: "pixels", "small-autoencoder", "autoencoder-kl" or "taef2".
        source: Its weights: a folder, for an AutoencoderKL also a name on the hub; for a small
            autoencoder a file, without which it is that of rendered scenes.
        shape: Channels, height and width of the latents.
        device: Where to compute.
        subfolder: Where in `source` an AutoencoderKL is.

    Raises:
        InputError: There is no such codec, it needs weights that are not given, or its latents have
            another shape.
    """
    if name == PixelCodec.name:
        codec: LatentCodec = PixelCodec(shape[-1])
    elif name == SmallAutoencoder.name:
        codec = SmallAutoencoder.load(Path(source) if source else SCENES_AUTOENCODER, device=device)
    elif not source:
        raise InputError(f"{name}: got no weights, expected a folder or hub name of them")
    elif name == AutoencoderKLCodec.name:
        codec = AutoencoderKLCodec(source, subfolder=subfolder, side=8 * shape[-1], device=device)
    elif name == TAEF2Codec.name:
        codec = TAEF2Codec(Path(source), 8 * shape[-1], device=device)
    else:
        raise InputError(
            f"got codec {name!r}, expected pixels, small-autoencoder, autoencoder-kl or taef2"
        )
    if codec.shape != shape:
        raise InputError(f"{name}: its latents are {codec.shape}, expected {shape}")
    return codec
