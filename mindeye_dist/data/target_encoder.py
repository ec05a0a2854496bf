"""Target encoder: pictures -> targets by a frozen model, with augmented views."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mindeye_dist.data.manifest import Targets
from mindeye_dist.data.targets import Request
from mindeye_dist.errors import BadSampleError, DataError
from mindeye_dist.pictures import decode
from mindeye_dist.shapes import Augmentation, Kind

BATCH = 32
"""Pictures that are encoded at once."""


@dataclass(frozen=True, kw_only=True)
class TargetEncoder:
    """A frozen model as the source of one kind of target.

    Attributes:
        digest: of weights and preprocessing; it changes whenever the targets could change.
        shape: of one target.
        encode: takes images with values in [0, 1], returns their targets.
    """

    kind: Kind
    name: str
    digest: str
    shape: tuple[int, ...]
    encode: Callable[[Float[Tensor, "batch 3 _ _"]], Float[Tensor, "batch ..."]]


@dataclass(frozen=True, kw_only=True)
class Views:
    """Augmented variants of each picture: how many, by which recipe, from which seed."""

    count: int = 0
    how: Augmentation = "release"
    seed: int = 0

    def __str__(self) -> str:
        return f"{self.count} {self.how} variants of seed {self.seed}" if self.count else "as it is"


def encode_views(
    encoder: TargetEncoder,
    views: Views,
    pictures: Sequence[bytes],
    names: Sequence[str],
    requests: Sequence[Request],
) -> list[np.ndarray]:
    """Return targets in float16.

    Args:
        encoder: whose targets they are.
        views: how variants are drawn.
        pictures: bytes of JPEG or PNG files.
        names: what to call each in messages.
        requests: number of a picture, and variant: 0 for the picture itself.

    Raises:
        BadSampleError: a picture cannot be read, or a target is not finite in float16.
    """
    decoded = [_decoded(data, name) for data, name in zip(pictures, names, strict=True)]
    digests = [hashlib.sha256(data).hexdigest() for data in pictures]
    images = [_view(decoded[i], digests[i], views, variant) for i, variant in requests]
    order = sorted(range(len(images)), key=lambda n: images[n].shape)
    targets: dict[int, np.ndarray] = {}
    for _, group in groupby(order, key=lambda n: images[n].shape):
        alike = list(group)
        for start in range(0, len(alike), BATCH):
            some = alike[start : start + BATCH]
            encoded = encoder.encode(torch.stack([images[n] for n in some]))
            targets |= dict(zip(some, encoded.cpu().numpy(), strict=True))
    return [
        _half(targets[n], f"{names[i]}: {encoder.kind} of variant {variant} by {encoder.name}")
        for n, (i, variant) in enumerate(requests)
    ]


def _decoded(data: bytes, name: str) -> Float[Tensor, "3 height width"]:
    try:
        picture = decode(data, name)
    except DataError as error:
        raise BadSampleError(str(error)) from error
    return torch.from_numpy(picture).permute(2, 0, 1).float() / 255


def _view(
    picture: Float[Tensor, "3 _ _"], sha256: str, views: Views, variant: int
) -> Float[Tensor, "3 _ _"]:
    if not variant:
        return picture
    # Here, since it brings torchvision: three seconds in each process of a run without variants.
    from mindeye_dist.data.augment import augment, variant_generator

    return augment(picture, views.how, variant_generator(views.seed, views.how, sha256, variant))


def _half(target: np.ndarray, what: str) -> np.ndarray:
    with np.errstate(over="ignore"):  # said below
        half = target.astype(np.float16)
    if not np.isfinite(half).all():
        worst = np.abs(target).max()
        raise BadSampleError(f"{what}: largest value {worst}, expected finite in float16")
    return half


def check_encoder(targets: Targets, encoder: TargetEncoder, name: str) -> None:
    """Check that a set of targets was made by this encoder.

    Raises:
        DataError: it is by another encoder, by other weights or preprocessing, or of another kind.
    """
    given = (targets.kind, targets.encoder, targets.digest, targets.shape)
    wanted = (encoder.kind, encoder.name, encoder.digest, encoder.shape)
    if given != wanted:
        raise DataError(
            f"targets {name!r}: got {given[0]} by {given[1]} with digest {given[2]}, shape "
            f"{given[3]}, expected {wanted[0]} by {wanted[1]} with digest {wanted[2]}, shape "
            f"{wanted[3]}"
        )
