"""Embedding: pictures -> targets by a frozen model, once for all subjects, and kept in shards.

A target is known by its source: the sha256 of the picture's bytes, the model's digest, and how its
augmented variants were drawn. Each sample of a target shard carries it as `KEY.source.txt`. A shard
of targets is never changed: its name ends with a digest of its keys and sources, so what is there
and intact is right, and what is missing or of a changed picture has another name.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from math import prod

from mindeye_dist.data.dataset import picture_member
from mindeye_dist.data.manifest import Shard, Targets
from mindeye_dist.data.members import read_members
from mindeye_dist.data.shards import Sample, intact_shard, read_index, write_shard
from mindeye_dist.data.target_encoder import BATCH, TargetEncoder, Views, encode_views
from mindeye_dist.data.writer import SAMPLES_PER_SHARD, pack
from mindeye_dist.errors import DataError
from mindeye_dist.storage import npy
from mindeye_dist.storage.store import Store

SOURCE = "source.txt"
LARGEST_SHARD = 2**28
"""Bytes of targets in a shard, about; it is made in memory."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One shard of targets to make.

    Attributes:
        path: of the tar, without its digest and ending.
        samples: whose pictures are encoded.
        pictures: sha256 of each picture's bytes.
        lent: where a target may be copied from: by source, the path of a shard and a key in it.
        level: tasks of a level need only shards of lower ones.
    """

    path: str
    samples: tuple[Sample, ...]
    pictures: tuple[str, ...]
    views: Views
    lent: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    level: int = 0


@dataclass(frozen=True)
class Made:
    """A finished shard of targets, and how many pictures had to be encoded for it."""

    shard: Shard
    encoded: int


def source(picture_sha256: str, encoder: TargetEncoder, views: Views) -> str:
    """Return a line that identifies picture, encoder and views of a target."""
    return f"picture {picture_sha256}, encoder {encoder.digest}, {views}\n"


def picture_digests(store: Store, samples: Sequence[Sample]) -> list[str]:
    """Return the sha256 of each sample's picture."""
    parts = read_members(store, [(s, picture_member(s)) for s in samples])
    return [hashlib.sha256(part).hexdigest() for part in parts]


def samples_per_shard(encoder: TargetEncoder, views: Views) -> int:
    """Return the number of samples of a shard, at most that of a published shard."""
    size = 2 * prod(encoder.shape) * (1 + views.count)
    return max(1, min(SAMPLES_PER_SHARD, LARGEST_SHARD // size))


def without_repeats(
    tasks: Iterable[Task], encoder: TargetEncoder, known: Mapping[str, tuple[str, str]]
) -> list[Task]:
    """Return tasks that encode a picture once: later ones copy from the first, or from `known`.

    Args:
        tasks: in the order in which they may claim pictures.
        encoder: whose targets are made.
        known: by source, the path of a finished shard and a key in it.
    """
    owners: dict[str, tuple[Task, str]] = {}
    planned = []
    for task in tasks:
        sources = [source(sha256, encoder, task.views) for sha256 in task.pictures]
        lent = {s: known[s] for s in sources if s in known}
        others = {s: owners[s] for s in sources if s in owners and s not in lent}
        lent |= {s: (shard_path(owner, encoder), key) for s, (owner, key) in others.items()}
        level = max((owner.level + 1 for owner, _ in others.values()), default=0)
        own = replace(task, lent=lent, level=level)
        for sample, text in zip(task.samples, sources, strict=True):
            owners.setdefault(text, (own, sample.key))
        planned.append(own)
    return planned


def known_sources(store: Store, targets: Targets) -> dict[str, tuple[str, str]]:
    """Return where each source of a set of targets is: the path of a shard and a key in it.

    Shards that are gone or damaged are passed over.
    """
    known: dict[str, tuple[str, str]] = {}
    for shard in (shard for shards in targets.splits.values() for shard in shards):
        with suppress(DataError):
            samples = [s for s in read_index(store, shard) if SOURCE in s.members]
            texts = read_members(store, [(s, SOURCE) for s in samples])
            known |= {t.decode(): (shard.path, s.key) for s, t in zip(samples, texts, strict=True)}
    return known


def shard_path(task: Task, encoder: TargetEncoder) -> str:
    """Return the path of a task's tar, which tells its keys and sources."""
    digest = hashlib.sha256()
    for sample, sha256 in zip(task.samples, task.pictures, strict=True):
        digest.update(f"{sample.key} {source(sha256, encoder, task.views)}".encode())
    return f"{task.path}-{digest.hexdigest()[:12]}.tar"


def embed_shard(
    store: Store, encoder: TargetEncoder, task: Task, finished: Mapping[str, Shard]
) -> Made:
    """Write a shard of targets unless it exists: copy lent targets, encode the others.

    Args:
        store: where samples are read and targets written.
        encoder: whose targets are made.
        task: the shard to make.
        finished: the shards that targets are lent from, by their path.

    Raises:
        DataError: a picture cannot be read, or a target is not finite in float16.
    """
    path = shard_path(task, encoder)
    if there := intact_shard(store, path):
        return Made(there, 0)
    sources = [source(sha256, encoder, task.views) for sha256 in task.pictures]
    members = _lent(store, task, finished, _suffixes(encoder, task.views))
    missing = {s: i for i, s in reversed(list(enumerate(sources))) if s not in members}
    numbers = sorted(missing.values())
    members |= dict(
        zip(
            [sources[i] for i in numbers],
            _encoded(store, encoder, task.views, [task.samples[i] for i in numbers]),
            strict=True,
        )
    )
    rows = [
        (sample.key, {**members[text], SOURCE: text.encode()})
        for sample, text in zip(task.samples, sources, strict=True)
    ]
    return Made(write_shard(store, path, pack(rows)), len(numbers))


def _suffixes(encoder: TargetEncoder, views: Views) -> list[str]:
    return [
        f"{encoder.kind}.{variant}.npy" if variant else f"{encoder.kind}.npy"
        for variant in range(views.count + 1)
    ]


def _lent(
    store: Store, task: Task, finished: Mapping[str, Shard], suffixes: Sequence[str]
) -> dict[str, dict[str, bytes]]:
    """Return the members of lent targets by source, without damaged ones."""
    indexes = {
        path: {sample.key: sample for sample in read_index(store, finished[path])}
        for path in {path for path, _ in task.lent.values()}
    }
    members = {}
    for text, (path, key) in task.lent.items():
        with suppress(DataError):
            bodies = read_members(store, [(indexes[path][key], suffix) for suffix in suffixes])
            members[text] = dict(zip(suffixes, bodies, strict=True))
    return members


def _encoded(
    store: Store, encoder: TargetEncoder, views: Views, samples: Sequence[Sample]
) -> list[dict[str, bytes]]:
    """Return the members of every sample's targets."""
    suffixes = _suffixes(encoder, views)
    rows = []
    for start in range(0, len(samples), BATCH):
        some = samples[start : start + BATCH]
        pictures = read_members(store, [(s, picture_member(s)) for s in some])
        requests = [(i, variant) for i in range(len(some)) for variant in range(views.count + 1)]
        names = [f"{store.locate(s.shard)}: sample {s.key}" for s in some]
        targets = encode_views(encoder, views, pictures, names, requests)
        for i in range(len(some)):
            own = targets[i * len(suffixes) : (i + 1) * len(suffixes)]
            bodies = map(npy.encode, own)
            rows.append(dict(zip(suffixes, bodies, strict=True)))
    return rows
