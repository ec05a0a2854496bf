"""Compute the targets of all pictures of a data set, on Ray Data, and enter them into the manifest.

In: shards, a frozen encoder. Out: shards of targets, then the manifest. A picture seen by several
subjects is encoded once. After an interruption, finished shards are reused; a picture that changed
is encoded again.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from jobs.command import absolute_path
from jobs.on_ray.parallel_map import connect, map_items
from jobs.opening.encoders import target_encoder
from jobs.options.embed import Embed
from jobs.options.workers import Workers
from mindeye_dist.data.manifest import Manifest, Shard, Targets, read_manifest, write_manifest
from mindeye_dist.data.shards import Sample, read_index
from mindeye_dist.data.target_encoder import TargetEncoder, Views, check_encoder
from mindeye_dist.errors import DataError, InputError
from mindeye_dist.ingest.target_shards import (
    Made,
    Task,
    embed_shard,
    known_sources,
    picture_digests,
    samples_per_shard,
    shard_path,
    without_repeats,
)
from mindeye_dist.storage.store import Store

AUGMENTED_SPLITS = ("train", "val")
"""Targets of the test split are never augmented."""


@dataclass(frozen=True)
class TargetPart:
    """Samples of a subject and split whose targets share a shard."""

    subject: str
    split: str
    path: str
    samples: tuple[Sample, ...]


class PictureHasher:
    """Task of a parallel map: hash the pictures of a part."""

    def __init__(self, url: str, parts: Sequence[TargetPart]) -> None:
        self._store, self._parts = Store(url), parts

    def __call__(self, number: int) -> dict[str, Any]:
        """Return the SHA-256 of each picture of a part."""
        return {"pictures": picture_digests(self._store, self._parts[number].samples)}


class TargetEmbedder:
    """Task of a parallel map: make a shard of targets. It holds the encoder."""

    def __init__(
        self, options: Embed, digest: str, tasks: Sequence[Task], finished: Mapping[str, Shard]
    ) -> None:
        self._store = Store(options.data_url)
        self._encoder = target_encoder(options.model, self._store)
        if self._encoder.digest != digest:
            raise InputError(
                f"{self._encoder.name}: this worker's weights have digest {self._encoder.digest}, "
                f"expected {digest}, as where the job was started"
            )
        self._tasks, self._finished = tasks, finished

    def __call__(self, number: int) -> dict[str, Any]:
        """Return the shard's entry and the number of encoded pictures."""
        made = embed_shard(self._store, self._encoder, self._tasks[number], self._finished)
        return asdict(made)


def embed(options: Embed) -> Manifest:
    """Compute and write a set of targets, and return the new manifest.

    Raises:
        DataError: shards cannot be read, or other weights made the set of the same name.
        InputError: the encoder's weights are missing or do not fit.
    """
    store = Store(options.data_url)
    manifest = read_manifest(store)
    # On the CPU: a cluster's head may have no GPU.
    encoder = target_encoder(replace(options.model, device="cpu"), store)
    name = options.name or set_name(options)
    print(f"{name}: {encoder.kind} by {encoder.name}, digest {encoder.digest}", file=sys.stderr)
    old = reusable_sets(manifest, name, encoder, overwrite=options.overwrite)
    views = Views(count=options.variants, how=options.augmentation, seed=options.seed)
    parts = list(target_parts(store, manifest, name, encoder, views))
    digests = map_items(
        replace(embed_workers(options), gpu=False),
        PictureHasher,
        (options.data_url, parts),
        [1] * len(parts),
        "reading pictures",
    )
    tasks = [
        Task(
            path=part.path,
            samples=part.samples,
            pictures=tuple(hashed["pictures"]),
            views=split_views(views, part.split),
        )
        for part, hashed in zip(parts, digests, strict=True)
    ]
    made = make_shards(options, store, encoder, tasks, old)
    print(f"{name}: encoded {sum(m.encoded for m in made)} pictures", file=sys.stderr)
    new = manifest_entries(parts, [m.shard for m in made], encoder, options.variants)
    current = read_manifest(store)  # others may have changed it since
    reusable_sets(current, name, encoder, overwrite=options.overwrite)
    merged = merge_targets(manifest, current, name, new)
    write_manifest(store, merged)
    return merged


def embed_workers(options: Embed) -> Workers:
    """Return the workers that the options ask for."""
    return Workers(
        count=options.workers,
        gpu=options.model.device == "cuda",
        without_ray=options.without_ray,
    )


def set_name(options: Embed) -> str:
    """Return the default name of a set: the encoder's, with the variants."""
    variants = f"-{options.augmentation}{options.variants}" if options.variants else ""
    return f"{options.model.encoder}{'-final' if options.model.final else ''}{variants}"


def reusable_sets(
    manifest: Manifest, name: str, encoder: TargetEncoder, *, overwrite: bool
) -> list[Targets]:
    """Return the sets of that name made by the same encoder, whose targets can be reused.

    Raises:
        DataError: another encoder made a set of that name, and `overwrite` is off.
    """
    same = []
    for subject, about in manifest.subjects.items():
        if name not in about.targets:
            continue
        try:
            check_encoder(about.targets[name], encoder, name)
            same.append(about.targets[name])
        except DataError as error:
            if not overwrite:
                raise DataError(
                    f"{subject}: {error}; give another --name, or replace it by --overwrite"
                ) from error
    return same


def target_parts(
    store: Store, manifest: Manifest, name: str, encoder: TargetEncoder, views: Views
) -> Iterator[TargetPart]:
    """Yield the parts of all subjects and splits, in the order of the manifest."""
    size = samples_per_shard(encoder, views)
    for subject, about in manifest.subjects.items():
        for split, shards in about.splits.items():
            samples = [sample for shard in shards for sample in read_index(store, shard)]
            for number, start in enumerate(range(0, len(samples), size)):
                folder = f"targets/{name}-{encoder.digest[:12]}/{split}"
                path = f"{folder}/{split}_{subject}_{number}"
                yield TargetPart(subject, split, path, tuple(samples[start : start + size]))


def split_views(views: Views, split: str) -> Views:
    """Return the augmented variants of a split: none for test."""
    return views if split in AUGMENTED_SPLITS else replace(views, count=0)


def make_shards(
    options: Embed,
    store: Store,
    encoder: TargetEncoder,
    tasks: Sequence[Task],
    old: Sequence[Targets],
) -> list[Made]:
    """Make the shards of all tasks, level by level, and return them in the order of tasks."""
    known: dict[str, tuple[str, str]] = {}
    finished: dict[str, Shard] = {}
    for targets in old:
        known |= known_sources(store, targets)
        finished |= {shard.path: shard for shards in targets.splits.values() for shard in shards}
    planned = without_repeats(tasks, encoder, known)
    made: dict[str, Made] = {}
    for level in sorted({task.level for task in planned}):
        some = [task for task in planned if task.level == level]
        arguments = (options, encoder.digest, some, finished)
        answers = map_items(
            embed_workers(options), TargetEmbedder, arguments, [1] * len(some), "embedding shards"
        )
        for task, answer in zip(some, answers, strict=True):
            shard = Shard(**answer["shard"])
            made[task.path] = Made(shard, answer["encoded"])
            finished[shard_path(task, encoder)] = shard
    return [made[task.path] for task in planned]


def manifest_entries(
    parts: Sequence[TargetPart], shards: Iterable[Shard], encoder: TargetEncoder, variants: int
) -> dict[str, Targets]:
    """Return the set's entry in the manifest for each subject."""
    splits: dict[str, dict[str, tuple[Shard, ...]]] = {}
    for part, shard in zip(parts, shards, strict=True):
        own = splits.setdefault(part.subject, {})
        own[part.split] = (*own.get(part.split, ()), shard)
    return {
        subject: Targets(
            kind=encoder.kind,
            encoder=encoder.name,
            digest=encoder.digest,
            shape=encoder.shape,
            variants=variants,
            splits=own,
        )
        for subject, own in splits.items()
    }


def merge_targets(
    before: Manifest, current: Manifest, name: str, new: Mapping[str, Targets]
) -> Manifest:
    """Add a set of targets, made for the manifest `before`, to the current manifest.

    A subject that was added or changed meanwhile is left as it is, with a message.
    """
    subjects = dict(current.subjects)
    for subject, about in current.subjects.items():
        if subject in new and about.splits == before.subject(subject).splits:
            subjects[subject] = replace(about, targets={**about.targets, name: new[subject]})
        else:
            print(
                f"{subject}: was added to the manifest or changed meanwhile, and has no targets "
                f"{name!r}; run again to make them",
                file=sys.stderr,
            )
    return replace(current, subjects=subjects)


def run(options: Embed) -> None:
    """Compute the targets on the workers that the options ask for."""
    options = replace(options, data_url=absolute_path(options.data_url))
    connect(embed_workers(options))
    embed(options)
    print(f"wrote {options.data_url}", file=sys.stderr)
