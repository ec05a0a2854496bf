"""Members of samples, verified against the index, from the store or the disk cache.

A member that does not match its index is fetched a second time before it is reported.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from mindeye_dist.data.shards import Member, Sample, checksum
from mindeye_dist.errors import BadSampleError
from mindeye_dist.storage import npy
from mindeye_dist.storage.ranges import Range
from mindeye_dist.storage.store import Store


def read_members(store: Store, requests: Sequence[tuple[Sample, str]]) -> list[bytes]:
    """Return the verified bytes of members.

    The size is always compared with the index, the checksum if the index has one.

    Raises:
        BadSampleError: a member is missing or does not match its index; names shard, key, offset.
        DataError: the bytes cannot be read.
    """
    members = [sample.member(suffix) for sample, suffix in requests]
    kept = [_kept(store, member) for member in members]
    fetched = iter(
        store.read_ranges(
            [
                _range(sample, member)
                for (sample, _), member, data in zip(requests, members, kept, strict=True)
                if data is None
            ]
        )
    )
    return [
        data if data is not None else _checked(store, *request, member, next(fetched))
        for request, member, data in zip(requests, members, kept, strict=True)
    ]


def read_into(store: Store, sample: Sample, suffix: str, row: Float[np.ndarray, "..."]) -> bool:
    """Read the array of a .npy member in a folder into memory; return whether it succeeded.

    Success means the row's shape and dtype, and the indexed bytes. Otherwise the row is undefined,
    and `read_members` reports the reason.

    Raises:
        BadSampleError: the sample lacks the member.
    """
    member = sample.member(suffix)
    header_size = member.size - row.nbytes
    if not 0 < header_size <= npy.LONGEST_USUAL:
        return False
    header = bytearray(header_size)
    got = store.read_into(sample.shard, member.offset, (header, row))
    if got != member.size or member.checksum not in ("", checksum(header, row)):
        store.counts.damaged += 1
        store.forget_files()
        return False
    return npy.describes(bytes(header), row)


@dataclass(frozen=True)
class MemberPlace:
    """Place of a member, for messages: subject, shard, key, suffix and offset."""

    store: Store
    sample: Sample
    suffix: str
    subject: str = ""

    def __str__(self) -> str:
        """Return the text, made only when a message needs it."""
        offset = self.sample.member(self.suffix).offset
        shard = self.store.locate(self.sample.shard)
        whose = f"{self.subject}: " if self.subject else ""
        return f"{whose}{shard}: sample {self.sample.key}: {self.suffix} at byte {offset}"


def _range(sample: Sample, member: Member) -> Range:
    return (sample.shard, member.offset, member.offset + member.size)


def _kept(store: Store, member: Member) -> bytes | None:
    """Return a member's bytes from the disk cache, None if it is not there or damaged."""
    if store.cache is None or not member.checksum:
        return None
    data = store.cache.get(member.checksum, member.size)
    return data if data is not None and _is_intact(data, member) else None


def _checked(store: Store, sample: Sample, suffix: str, member: Member, part: bytes) -> bytes:
    """Return a member's verified bytes, fetched a second time if they do not match the index."""
    if not _is_intact(part, member):
        store.counts.damaged += 1
        part = store.read_ranges([_range(sample, member)])[0]
    if not _is_intact(part, member):
        raise BadSampleError(
            f"{MemberPlace(store, sample, suffix)}: got {len(part)} bytes with checksum "
            f"{checksum(part)}, expected {member.size} with {member.checksum or 'any'}"
        )
    if store.cache is not None and member.checksum:
        store.cache.put(member.checksum, member.size, part)
    return part


def _is_intact(part: bytes, member: Member) -> bool:
    return len(part) == member.size and member.checksum in ("", checksum(part))
