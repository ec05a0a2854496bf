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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import xxhash

from mindeye_dist.data import npy
from mindeye_dist.data.store import LONGEST_READ, DataError, RangeFile, Store
from mindeye_dist.shapes import Kind
from mindeye_dist.strict import from_dict

Split = Literal["train", "val", "test"]
MANIFEST = "manifest.json"
FORMAT = "mindeye-dist-shards/2"
VOXELS = "nsdgeneral.npy"
DISTINCT = "num_uniques.npy"
PICTURES = ("jpg", "png")
ABOUT_PICTURES = "truth/pictures.jsonl"
"""What simulation writes about its pictures, beside the shards: a JSON line each."""
END_OF_TAR = 1024


class BadSampleError(DataError):
    """What is stored of one sample is missing, damaged or not finite; others may be whole."""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One tar file.

    Attributes:
        path: relative to the manifest, as is that of its index.
        sha256: digest of the whole tar, "" where it was indexed without reading it all.
        index_sha256: digest of its index.
    """

    path: str
    index: str
    num_bytes: int
    num_samples: int
    sha256: str
    index_sha256: str


@dataclass(frozen=True, kw_only=True)
class Targets:
    """One target of every picture by one frozen model, in shards parallel to the samples'.

    Attributes:
        digest: of the model's weights and preprocessing.
        shape: of one target.
        variants: augmented variants that stand beside the target of the picture itself.
    """

    kind: Kind
    encoder: str
    digest: str
    shape: tuple[int, ...]
    variants: int
    splits: dict[str, tuple[Shard, ...]]

    def member(self, variant: int) -> str:
        """Return the member that holds a variant, 0 being the picture itself."""
        return f"{self.kind}.{variant}.npy" if variant else f"{self.kind}.npy"


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One brain.

    Attributes:
        rois: voxel numbers of each region, empty where they are not known.
        ncsnr: noise-ceiling SNR of each voxel, empty where it is not known.
        truth: path of the simulator's truth, empty for a real brain; truth_sha256 its digest.
    """

    num_voxels: int
    num_repeats: int
    rois: dict[str, tuple[int, ...]]
    ncsnr: tuple[float, ...]
    truth: str
    truth_sha256: str
    splits: dict[str, tuple[Shard, ...]]
    targets: dict[str, Targets]

    def target_set(self, kind: str, name: str) -> Targets:
        """Return a set of targets of a kind.

        Raises:
            DataError: there is no such set; the message lists those there are.
        """
        there = sorted(key for key, targets in self.targets.items() if targets.kind == kind)
        if name not in there:
            raise DataError(f"no {kind} {name!r} in the manifest, only {there}")
        return self.targets[name]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a folder of shards holds."""

    format: str
    licence: str
    subjects: dict[str, Subject]

    def subject(self, name: str) -> Subject:
        """Return a subject.

        Raises:
            DataError: there is no such subject; the message lists those there are.
        """
        if name not in self.subjects:
            raise DataError(
                f"subject {name!r} is not in the manifest, which has {sorted(self.subjects)}"
            )
        return self.subjects[name]


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


def read_manifest(store: Store) -> Manifest:
    """Return the manifest of a store.

    Raises:
        DataError: there is none, or it is not one.
    """
    where = store.locate(MANIFEST)
    try:
        values = json.loads(store.read(MANIFEST))
    except ValueError:  # it may have come short: once more before it is reported
        try:
            values = json.loads(store.read(MANIFEST))
        except ValueError as error:
            raise DataError(f"{where}: not JSON: {error}") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise DataError(f"{where}: expected a manifest of format {FORMAT!r}")
    try:
        manifest = from_dict(Manifest, values)
    except ValueError as error:
        raise DataError(f"{where}: {error}") from error
    for path in _paths(manifest):
        if path.startswith("/") or ".." in path.split("/"):
            raise DataError(f"{where}: got the path {path!r}, expected one inside {store.url}")
    return manifest


def write_manifest(store: Store, manifest: Manifest) -> None:
    """Write the manifest; done last, it makes the shards visible."""
    text = json.dumps(dataclasses.asdict(manifest), indent=1)
    store.write(MANIFEST, text.encode())


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


def _paths(manifest: Manifest) -> Iterable[str]:
    for subject in manifest.subjects.values():
        yield subject.truth
        for splits in (subject.splits, *(targets.splits for targets in subject.targets.values())):
            for shards in splits.values():
                for shard in shards:
                    yield from (shard.path, shard.index)


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
