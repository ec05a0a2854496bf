"""Targets: what the model is to predict of a picture, read from target shards or computed.

Both ways give the same numbers but for the last bit of a batched encoder: stored targets are
float16, and computed ones are rounded to it.
Variant 0 is the target of the picture itself, 1..variants those of its augmented views.
"""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from mindeye_dist.data.manifest import Targets
from mindeye_dist.data.members import MemberPlace, read_into, read_members
from mindeye_dist.data.shards import Sample, decode_npy, read_index
from mindeye_dist.errors import BadSampleError, DataError
from mindeye_dist.storage import npy
from mindeye_dist.storage.store import Store

Request = tuple[int, int]
"""Number of a sample in its split, and variant."""


@runtime_checkable
class TargetSource(Protocol):
    """Targets of one kind for the samples of a split."""

    shape: tuple[int, ...]
    variants: int

    def read(self, requests: Sequence[Request]) -> list[Float[np.ndarray, "..."]]:
        """Return targets by sample and variant."""
        ...


class StoredTargets:
    """Targets from their shards.

    Raises:
        DataError: on construction, if the shards do not hold the samples' keys.
        BadSampleError: on reading, if a member is missing, corrupt, of another shape, not finite.
    """

    def __init__(
        self, store: Store, targets: Targets, splits: Sequence[str], samples: Sequence[Sample]
    ) -> None:
        self.shape, self.variants = targets.shape, targets.variants
        self._store, self._targets = store, targets
        self._finite: set[str] = set()
        if missing := [split for split in splits if split not in targets.splits]:
            raise DataError(f"{store.url}: {targets.kind} by {targets.encoder}: no split {missing}")
        self._samples = [
            s
            for split in splits
            for shard in targets.splits[split]
            for s in read_index(store, shard)
        ]
        if [s.key for s in samples] != [t.key for t in self._samples]:
            raise DataError(
                f"{store.url}: {'+'.join(splits)}: keys of the {targets.kind} by "
                f"{targets.encoder} are not those of the samples"
            )

    def read(self, requests: Sequence[Request]) -> list[Float[np.ndarray, "..."]]:
        """Return targets by sample and variant."""
        members = [(self._samples[i], self._targets.member(variant)) for i, variant in requests]
        return [
            checked_array(data, self.shape, MemberPlace(self._store, *member), self._finite)
            for member, data in zip(members, read_members(self._store, members), strict=True)
        ]

    def read_into(
        self, request: Request, row: Float[np.ndarray, "..."]
    ) -> Float[np.ndarray, "..."] | None:
        """Read a target straight into its place; return one that does not fit there."""
        i, variant = request
        sample, suffix = self._samples[i], self._targets.member(variant)
        if read_into(self._store, sample, suffix, row):
            checksum = sample.member(suffix).checksum
            if is_finite(row, checksum, self._finite):
                return None
        return self.read([request])[0]


class ComputedTargets:
    """Targets computed when they are asked for.

    Args:
        encode: takes requests, returns their targets (requests, ...).
        shape: of one target.
        variants: augmented views that may be asked for.
    """

    def __init__(
        self,
        encode: Callable[[Sequence[Request]], Float[np.ndarray, "requests ..."]],
        shape: tuple[int, ...],
        variants: int,
    ) -> None:
        self.shape, self.variants = shape, variants
        self._encode = encode

    def read(self, requests: Sequence[Request]) -> list[Float[np.ndarray, "..."]]:
        """Return targets by sample and variant."""
        return list(self._encode(requests).astype(np.float16)) if requests else []


def checked_array(
    data: bytes, shape: tuple[int, ...], where: MemberPlace, finite: set[str]
) -> Float[np.ndarray, "..."]:
    """Return the array of a .npy member.

    Args:
        data: the member's bytes, verified.
        shape: that it must have.
        where: it lies.
        finite: checksums of members that were seen to be, and are not looked through again.

    Raises:
        BadSampleError: it is no plain array, not floating point, of another shape, or not finite.
    """
    array = decode_npy(data, where)
    if array.shape != shape or array.dtype.kind != "f":
        raise BadSampleError(
            f"{where}: got {array.dtype} {array.shape}, expected floating point {shape}"
        )
    if not is_finite(array, where.sample.member(where.suffix).checksum, finite):
        count = np.count_nonzero(~np.isfinite(array))
        raise BadSampleError(f"{where}: {count} values are not finite")
    return array.astype(array.dtype.newbyteorder("="), copy=False)  # the only one torch knows


def is_finite(array: Float[np.ndarray, "..."], checksum: str, finite: set[str]) -> bool:
    """Return whether an array is finite, and note its checksum, "" where it has none, if it is."""
    if checksum in finite:
        return True
    if not npy.is_finite(array):
        return False
    if checksum:
        finite.add(checksum)
    return True
