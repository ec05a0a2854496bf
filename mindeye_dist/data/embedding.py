"""Embedding: pictures -> targets by a frozen model, once for all subjects, and kept in shards.

A target is known by its source: the sha256 of the picture's bytes, the model's digest, and how its
augmented variants were drawn. Each sample of a target shard carries it as `KEY.source.txt`. A shard
of targets is never changed: its name ends with a digest of its keys and sources, so what is there
and intact is right, and what is missing or of a changed picture has another name.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import groupby
from math import prod

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mindeye_dist.data import npy
from mindeye_dist.data.loader import Dataset, picture_member
from mindeye_dist.data.members import read_members
from mindeye_dist.data.pictures import decode
from mindeye_dist.data.shards import (
    BadSampleError,
    Sample,
    Shard,
    Targets,
    describe_shard,
    read_index,
    write_shard,
)
from mindeye_dist.data.store import DataError, Store
from mindeye_dist.data.targets import ComputedTargets, Request
from mindeye_dist.data.writer import SAMPLES_PER_SHARD, pack
from mindeye_dist.shapes import Kind, Recipe

SOURCE = "source.txt"
BATCH = 32
"""Pictures that are encoded at once."""
LARGEST_SHARD = 2**28
"""Bytes of targets in a shard, about; it is made in memory."""


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
    how: Recipe = "release"
    seed: int = 0

    def __str__(self) -> str:
        return f"{self.count} {self.how} variants of seed {self.seed}" if self.count else "as it is"


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
    """Return what a picture's targets depend on, on one line."""
    return f"picture {picture_sha256}, encoder {encoder.digest}, {views}\n"


def picture_digests(store: Store, samples: Sequence[Sample]) -> list[str]:
    """Return the sha256 of each sample's picture."""
    parts = read_members(store, [(s, picture_member(s)) for s in samples])
    return [hashlib.sha256(part).hexdigest() for part in parts]


def samples_per_shard(encoder: TargetEncoder, views: Views) -> int:
    """Return how many samples a shard takes, at most as many as a published one."""
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
    """Make a shard of targets, unless it is there: copy what is lent, encode the rest.

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


def intact_shard(store: Store, path: str) -> Shard | None:
    """Return the entry of a shard that is there, if its bytes are those that were indexed."""
    if not store.exists(path):
        return None
    try:
        shard, index = describe_shard(path, store.read(path))
        return shard if store.read(shard.index) == index else None
    except DataError:
        return None  # cut short or without index: it is made again


def _suffixes(encoder: TargetEncoder, views: Views) -> list[str]:
    return [
        f"{encoder.kind}.{variant}.npy" if variant else f"{encoder.kind}.npy"
        for variant in range(views.count + 1)
    ]


def _lent(
    store: Store, task: Task, finished: Mapping[str, Shard], suffixes: Sequence[str]
) -> dict[str, dict[str, bytes]]:
    """Return the members of lent targets by their source; what is damaged is left out."""
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


def computed_targets(dataset: Dataset, encoder: TargetEncoder, views: Views) -> ComputedTargets:
    """Return targets that are computed as they are asked for: the same numbers as stored ones."""

    def encode(requests: Sequence[Request]) -> np.ndarray:
        numbers = list(dict.fromkeys(i for i, _ in requests))
        names = [f"{dataset.subject_name}: sample {dataset.samples[i].key}" for i in numbers]
        places = [(numbers.index(i), variant) for i, variant in requests]
        return np.stack(encode_views(encoder, views, dataset.pictures(numbers), names, places))

    return ComputedTargets(encode, encoder.shape, views.count)


def check_encoder(targets: Targets, encoder: TargetEncoder, name: str) -> None:
    """See that a set of targets is by the very encoder that is in use.

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
