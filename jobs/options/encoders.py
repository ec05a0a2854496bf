"""Flags that choose a frozen encoder, the source of targets, and its preprocessing."""

import re
from dataclasses import dataclass
from typing import Literal

from mindeye_dist.strict import check

EncoderName = Literal[
    "clip-vit-l-14",
    "efficientnet-lite0",
    "efficientnet-lite0-map",
    "convnext",
    "pixels",
    "autoencoder-kl",
    "taef2",
]


@dataclass(frozen=True, kw_only=True)
class EncoderOptions:
    """A frozen encoder by name, its weights, preprocessing and device."""

    encoder: EncoderName = "clip-vit-l-14"
    """clip-vit-l-14: the published clip_tokens. efficientnet-lite0: clip_tokens by the projection
    stored with the shards; -map: the same without token 0, as a low-level teacher. convnext: the
    published teacher. pixels, autoencoder-kl, taef2: latents."""
    weights: str = ""
    """CLIP: a tag of open_clip's hub, a safetensors file, or `random`; openai if it is empty.
    autoencoder-kl: a folder or hub name. taef2: a folder. convnext: a safetensors file."""
    final: bool = False
    """CLIP: only the image embedding, 1 x 768."""
    subfolder: str = ""
    """autoencoder-kl: subfolder of the weights (`vae` in a whole pipeline)."""
    published_std: bool = False
    """convnext: divide red by the published .228, for parity, instead of ImageNet's .229."""
    antialias: bool = False
    """CLIP: filter while downscaling; the published targets are not filtered."""
    side: int = 0
    """Width of the pictures that a codec encodes, in pixels; 0 means 28 for pixels, 512 for
    autoencoder-kl, 128 for taef2."""
    device: str = "cpu"
    """Device of each worker: cpu or cuda."""

    def __post_init__(self) -> None:
        known = re.fullmatch(r"cpu|cuda(:\d+)?", self.device) is not None
        check(known, "device", self.device, "cpu or cuda")
