"""Indexing: shards that lie in the published folder layout -> manifest entry, without copying.

`<split>/<split>_<subject>_<number>.tar` below one folder, as the published subjects have them, with
a `metadata_<subject>.json` of the counts beside. Only tar headers are fetched, and one header of a
voxel array; of the published shards 96 % of the bytes are whole-brain volumes, which nothing reads.
"""

import io
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mindeye_dist.data.manifest import Shard, Subject
from mindeye_dist.data.members import read_members
from mindeye_dist.data.shards import (
    DISTINCT,
    PICTURES,
    VOXELS,
    Sample,
    scan_tar,
    shard_entry,
    with_checksums,
)
from mindeye_dist.errors import DataError
from mindeye_dist.storage import npy
from mindeye_dist.storage.store import Store

SPLITS = ("train", "val", "test")
_SHARD = re.compile(r"(?P<split>[a-z]+)_(?P<subject>.+)_(?P<number>\d+)\.tar")
_SAMPLES_AT_ONCE = 32
_NPY_HEADER = 1024


@dataclass(frozen=True)
class ScannedShard:
    """A tar's samples, with the number of its bytes."""

    path: str
    num_bytes: int
    samples: Sequence[Sample]


def find_shards(store: Store) -> dict[str, dict[str, list[str]]]:
    """Return the paths of the shards there are, by subject and split, ordered by their numbers.

    Raises:
        DataError: there are none, or the numbers of a split's shards have a gap.
    """
    numbered: dict[str, dict[str, dict[int, str]]] = {}
    for split in SPLITS:
        for name in store.names(split):
            match = _SHARD.fullmatch(name)
            if match and match["split"] == split:
                splits = numbered.setdefault(match["subject"], {})
                splits.setdefault(split, {})[int(match["number"])] = f"{split}/{name}"
    if not numbered:
        raise DataError(f"{store.url}: has no shards like train/train_subj01_0.tar")
    for subject, splits in numbered.items():
        for split, paths in splits.items():
            missing = set(range(max(paths))) - set(paths)
            if missing:
                path = f"{split}/{split}_{subject}_{min(missing)}.tar"
                raise DataError(f"{store.locate(path)}: is missing, of {max(paths) + 1} shards")
    return {
        subject: {split: [paths[n] for n in sorted(paths)] for split, paths in splits.items()}
        for subject, splits in sorted(numbered.items())
    }


def scan_shard(store: Store, path: str, checksums: bool) -> ScannedShard:
    """Return where the members of a shard lie, read from its headers alone.

    Args:
        store: where the shard is.
        path: of the shard.
        checksums: read pictures, voxels and number of repeats too, and note their checksums.

    Raises:
        DataError: the shard is no whole tar, is empty, or a sample lacks a member that training
            uses.
    """
    with store.open(path) as file:
        num_bytes = file.seek(0, os.SEEK_END)
        samples = scan_tar(file, store.locate(path))
    samples = [Sample(path, sample.key, sample.members) for sample in samples]
    if not samples:
        raise DataError(f"{store.locate(path)}: has no samples")
    for sample in samples:
        for wanted in ((VOXELS,), (DISTINCT,), PICTURES):
            if not any(suffix in sample.members for suffix in wanted):
                raise DataError(
                    f"{store.locate(path)}: sample {sample.key} has no {' or '.join(wanted)}, "
                    f"only {sorted(sample.members)}"
                )
    if checksums:
        samples = [
            read
            for start in range(0, len(samples), _SAMPLES_AT_ONCE)
            for read in _read_checksums(store, samples[start : start + _SAMPLES_AT_ONCE])
        ]
    return ScannedShard(path, num_bytes, samples)


def describe_subject(
    store: Store, name: str, splits: Mapping[str, Sequence[ScannedShard]]
) -> tuple[Subject, dict[str, bytes]]:
    """Return a subject's manifest entry, and the bytes of each index by its path; writes nothing.

    Raises:
        DataError: samples differ in the size of their voxels, the first one's are no array of
            (repeats, voxels), or the counts are not those of metadata_<subject>.json.
    """
    first = next(shard.samples[0] for shards in splits.values() for shard in shards)
    for shards in splits.values():
        for sample in (sample for shard in shards for sample in shard.samples):
            if sample.members[VOXELS].size != first.members[VOXELS].size:
                raise DataError(
                    f"{name}: {store.locate(sample.shard)}: sample {sample.key}: {VOXELS} has "
                    f"{sample.members[VOXELS].size} bytes, expected "
                    f"{first.members[VOXELS].size} as in {first.shard}: sample {first.key}"
                )
    num_repeats, num_voxels = read_voxel_shape(store, first)
    counts = {
        split: sum(len(shard.samples) for shard in shards) for split, shards in splits.items()
    }
    _check_counts(store, name, counts)
    entries: dict[str, tuple[Shard, ...]] = {}
    indexes: dict[str, bytes] = {}
    for split, shards in splits.items():
        made = [shard_entry(s.path, s.num_bytes, "", s.samples) for s in shards]
        entries[split] = tuple(shard for shard, _ in made)
        indexes.update({shard.index: index for shard, index in made})
    subject = Subject(
        num_voxels=num_voxels,
        num_repeats=num_repeats,
        rois={},
        ncsnr=(),
        truth="",
        truth_sha256="",
        splits=entries,
        targets={},
    )
    return subject, indexes


def read_voxel_shape(store: Store, sample: Sample) -> tuple[int, int]:
    """Return repeats and voxels of a sample, from the header of its array.

    Raises:
        DataError: it is no floating-point array of (repeats, voxels), or not of the member's size.
    """
    member = sample.member(VOXELS)
    where = f"{store.locate(sample.shard)}: sample {sample.key}: {VOXELS}"
    end = member.offset + min(_NPY_HEADER, member.size)
    header = io.BytesIO(store.read_ranges([(sample.shard, member.offset, end)])[0])
    try:
        version = np.lib.format.read_magic(header)
        if version == (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(header)
        else:
            shape, _, dtype = np.lib.format.read_array_header_2_0(header)
    except npy.NOT_NPY as error:
        raise DataError(f"{where}: not a plain .npy array: {error}") from error
    if len(shape) != 2 or dtype.kind != "f":
        raise DataError(f"{where}: got {dtype} {shape}, expected floats (repeats, voxels)")
    size = header.tell() + dtype.itemsize * shape[0] * shape[1]
    if member.size != size:
        raise DataError(f"{where}: has {member.size} bytes, expected {size} for {dtype} {shape}")
    return shape[0], shape[1]


def _read_checksums(store: Store, samples: Sequence[Sample]) -> list[Sample]:
    used = (VOXELS, DISTINCT, *PICTURES)
    requests = [
        (sample, suffix) for sample in samples for suffix in used if suffix in sample.members
    ]
    bodies: dict[str, dict[str, bytes]] = {sample.key: {} for sample in samples}
    for (sample, suffix), body in zip(requests, read_members(store, requests), strict=True):
        bodies[sample.key][suffix] = body
    return [with_checksums(sample, bodies[sample.key]) for sample in samples]


def _check_counts(store: Store, name: str, counts: Mapping[str, int]) -> None:
    path = f"metadata_{name}.json"
    if not store.exists(path):
        return
    try:
        totals = json.loads(store.read(path))["totals"]
        expected = {split: int(totals[split]) for split in totals if totals[split]}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f'{store.locate(path)}: expected {{"totals": {{"train": ...}}}}: {error!r}'
        ) from error
    if expected != counts:
        raise DataError(
            f"{name}: the shards hold {dict(counts)} samples, {store.locate(path)} says {expected}"
        )
