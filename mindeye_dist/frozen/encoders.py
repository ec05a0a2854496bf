"""Image encoders: their protocol, and the digest that identifies one."""

import hashlib
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

ENCODED_AT_ONCE = 8
"""Pictures of one call on a CPU: 32 exceed its cache and take 1.7 times as long each."""


@runtime_checkable
class ImageEncoder(Protocol):
    """Interface of an image encoder: pictures -> clip_tokens."""

    name: str
    num_tokens: int
    dim: int
    digest: str
    """Hex digest over weights and preprocessing: it changes whenever the outputs could change."""

    def __call__(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch tokens dim"]:
        """Encode images with values in [0, 1]."""
        ...


class EncoderMap:
    """An encoder's tokens without token 0, the summary: a feature map, row by row."""

    def __init__(self, encoder: ImageEncoder) -> None:
        self.name = f"{encoder.name}-map"
        self.num_tokens, self.dim = encoder.num_tokens - 1, encoder.dim
        self.digest = hashlib.sha256(f"{encoder.digest} without token 0".encode()).hexdigest()
        self._encoder = encoder

    def __call__(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch tokens dim"]:
        """Encode images with values in [0, 1]."""
        return self._encoder(images)[:, 1:]


def digest_of(constants: str, tensors: Mapping[str, Tensor]) -> str:
    """Hash tensors by name, type, shape and bytes."""
    state = hashlib.sha256(constants.encode())
    for name, tensor in sorted(tensors.items()):
        state.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        state.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return state.hexdigest()
