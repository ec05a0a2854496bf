"""Shards: tar files in the published webdataset layout, their indexes and the manifest beside them.

A sample is the members that share a KEY: `KEY.jpg` (or png), `KEY.nsdgeneral.npy` (repeats, voxels)
float16, `KEY.coco73k.npy`, `KEY.num_uniques.npy`, `KEY.trial.npy`; targets lie in shards of their
own, with the same keys and `KEY.clip_tokens.npy`, `KEY.latents.npy` or `KEY.feature_map.npy`. An
index says where each member starts, how long it is and, where it was read, its xxh3 checksum, so
that single members can be read by range and verified; unknown members are never read.
"""

import dataclasses
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash

from mindeye_dist.data.manifest import Shard
from mindeye_dist.errors import BadSampleError, DataError
from mindeye_dist.storage import npy
from mindeye_dist.storage.store import LONGEST_READ, RangeFile, Store

VOXELS = "nsdgeneral.npy"
DISTINCT = "num_uniques.npy"
PICTURES = ("jpg", "png")
ABOUT_PICTURES = "truth/pictures.jsonl"
"""File beside simulated shards with source, caption and factors of each picture, as JSON lines."""
END_OF_TAR = 1024


@dataclass(frozen=True)
class Member:
    """Where a member's bytes lie in its tar, and their xxh3_64 checksum in hex.

    The checksum is "" where the tar was indexed without reading the member; then only the number
    of its bytes can be verified.
    """

    offset: int
    size: int
    checksum: str


@dataclass(frozen=True)
class Sample:
    """The members of one key of one shard, by their suffix (`jpg`, `nsdgeneral.npy`)."""

    shard: str
    key: str
    members: Mapping[str, Member]

    def member(self, suffix: str) -> Member:
        """Return a member.

        Raises:
            BadSampleError: the sample lacks it.
        """
        if suffix not in self.members:
            raise BadSampleError(
                f"{self.shard}: sample {self.key} has no {suffix}, only {sorted(self.members)}"
            )
        return self.members[suffix]


def scan_tar(file: io.BytesIO | RangeFile, shard: str) -> list[Sample]:
    """Return the samples of a tar, in its order, without checksums; reads headers only.

    Raises:
        DataError: the tar is cut short or corrupt, or a key's members are apart or doubled.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    samples: dict[str, dict[str, Member]] = {}
    last, end = "", 0
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for entry in tar:
                stop = entry.offset_data + entry.size
                end = -(-stop // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                key, suffix = _key_and_suffix(entry.name)
                if not (entry.isfile() and key and suffix):
                    continue
                if entry.issparse():
                    raise DataError(f"{shard}: sample {key}: {suffix} is stored with holes")
                if key != last and key in samples:
                    raise DataError(f"{shard}: members of sample {key} are not side by side")
                members = samples.setdefault(key, {})
                if suffix in members:
                    raise DataError(f"{shard}: sample {key} has {suffix} twice")
                if stop > size:
                    raise DataError(
                        f"{shard}: cut short: sample {key}: {suffix} ends at byte {stop} of {size}"
                    )
                members[suffix] = Member(entry.offset_data, entry.size, "")
                last = key
    except tarfile.TarError as error:
        raise DataError(f"{shard}: not a whole tar file, at byte {end}: {error}") from error
    _check_end(file, end, size, f"{shard}: after sample {last or '(none)'}")
    return [Sample(shard, key, members) for key, members in samples.items()]


def _key_and_suffix(name: str) -> tuple[str, str]:
    """Split as webdataset does: at the first dot of the file's name."""
    folder, slash, file = name.rpartition("/")
    stem, _, suffix = file.partition(".")
    return (f"{folder}{slash}{stem}" if stem else ""), suffix


def _check_end(file: io.BytesIO | RangeFile, end: int, size: int, where: str) -> None:
    # tarfile takes a broken header in the middle for the tar's end, and says nothing.
    if size - end < END_OF_TAR:
        raise DataError(f"{where}: cut short: {size} bytes without the mark of a tar's end")
    file.seek(end)
    if any(file.read(min(size - end, LONGEST_READ))) or size - end > LONGEST_READ:
        raise DataError(f"{where}: corrupt header at byte {end} of {size}")


def with_checksums(sample: Sample, bodies: Mapping[str, Any]) -> Sample:
    """Return a sample with the checksums of those members, by suffix, whose bytes are given."""
    members = {
        suffix: Member(m.offset, m.size, checksum(bodies[suffix]) if suffix in bodies else "")
        for suffix, m in sample.members.items()
    }
    return Sample(sample.shard, sample.key, members)


def shard_entry(
    path: str, num_bytes: int, sha256: str, samples: Sequence[Sample]
) -> tuple[Shard, bytes]:
    """Return a shard's entry for the manifest, and the bytes of its index."""
    rows = [
        {
            "key": sample.key,
            "members": {k: dataclasses.astuple(m) for k, m in sample.members.items()},
        }
        for sample in samples
    ]
    index = json.dumps(rows).encode()
    shard = Shard(
        path=path,
        index=path.removesuffix(".tar") + ".index.json",
        num_bytes=num_bytes,
        num_samples=len(samples),
        sha256=sha256,
        index_sha256=hashlib.sha256(index).hexdigest(),
    )
    return shard, index


def describe_shard(path: str, data: bytes) -> tuple[Shard, bytes]:
    """Return the entry of a whole tar for the manifest, and the bytes of its index.

    Raises:
        DataError: the tar is cut short or corrupt, or a key's members are apart or doubled.
    """
    view = memoryview(data)
    samples = [
        with_checksums(
            sample, {k: view[m.offset : m.offset + m.size] for k, m in sample.members.items()}
        )
        for sample in scan_tar(io.BytesIO(data), path)
    ]
    return shard_entry(path, len(data), hashlib.sha256(data).hexdigest(), samples)


def write_shard(store: Store, path: str, data: bytes) -> Shard:
    """Write a tar and its index, and return their entry for the manifest."""
    shard, index = describe_shard(path, data)
    store.write(path, data)
    store.write(shard.index, index)
    return shard


def read_index(store: Store, shard: Shard) -> list[Sample]:
    """Return the samples of a shard from its index.

    Raises:
        DataError: the index is missing or not the one that the manifest was made with.
    """
    data = store.read(shard.index)
    if hashlib.sha256(data).hexdigest() != shard.index_sha256:
        data = store.read(shard.index)  # as members are, once more before it is reported
    if hashlib.sha256(data).hexdigest() != shard.index_sha256:
        raise DataError(
            f"{store.locate(shard.index)}: is not the index that the manifest was made with"
        )
    samples = [
        Sample(shard.path, row["key"], {k: Member(*m) for k, m in row["members"].items()})
        for row in json.loads(data)
    ]
    if len(samples) != shard.num_samples:
        raise DataError(
            f"{store.locate(shard.index)}: has {len(samples)} samples, expected {shard.num_samples}"
        )
    return samples


def checksum(*parts: Any) -> str:
    """Return the xxh3_64 checksum of bytes, in hex, of parts as if they were one."""
    if len(parts) == 1:
        return xxhash.xxh3_64_hexdigest(parts[0])
    state = xxhash.xxh3_64()
    for part in parts:
        state.update(part)
    return state.hexdigest()


def decode_npy(data: bytes, where: object) -> np.ndarray:
    """Return the array of a .npy member; objects are refused. `where`, as text, is for messages.

    Raises:
        BadSampleError: the bytes are no plain array.
    """
    try:
        return npy.decode(data)
    except npy.NOT_NPY as error:
        raise BadSampleError(f"{where}: not a plain .npy array: {error}") from error


def intact_shard(store: Store, path: str) -> Shard | None:
    """Return the manifest entry of an existing shard whose bytes match its index, else None."""
    if not store.exists(path):
        return None
    try:
        shard, index = describe_shard(path, store.read(path))
        return shard if store.read(shard.index) == index else None
    except DataError:
        return None  # cut short or without index: it is made again
