"""Loader: shards -> Batch, in an order that is a function of (seed, epoch) alone.

The samples of all epochs form one stream, each epoch a permutation of the split; optimizer step s
takes samples s*B .. (s+1)*B of it, so a batch may span two epochs, every sample is seen once an
epoch, and the position in the stream is the step and nothing else. Each rank reads its rows of the
global batch. Only members in use are read, each is verified, and decoded samples stay in memory up
to a limit.
"""

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from threading import Lock
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from mindeye_dist.batch import Batch
from mindeye_dist.config import DataConfig, TrainingConfig
from mindeye_dist.data.bad_samples import BadSamples
from mindeye_dist.data.buffers import Buffers
from mindeye_dist.data.members import MemberPlace, read_members
from mindeye_dist.data.repeats import chances, draw_repeat, single
from mindeye_dist.data.shards import (
    DISTINCT,
    VOXELS,
    BadSampleError,
    Manifest,
    Sample,
    decode_npy,
    read_index,
)
from mindeye_dist.data.store import DataError, Store
from mindeye_dist.data.targets import Request, StoredTargets, TargetSource, checked_array
from mindeye_dist.distributed import local_slice
from mindeye_dist.randomness import numpy_generator


class Dataset:
    """Random access to the samples of one subject's split, and to their targets.

    Args:
        store: the shards.
        manifest: what they hold.
        config: subject, cache, and whether copies count as repeats.
        split: "train", "val", "test", or several joined by "+".
        sets: name in the manifest of the stored set of each kind of target; what is computed
            instead is put into `sources`.

    Raises:
        DataError: on construction, if subject, split or a set are not in the manifest or a set's
            keys are not the samples'; on reading, if the bytes cannot be had.
        BadSampleError: on reading, if a member is missing, corrupt, of another shape, not finite.
    """

    def __init__(
        self,
        store: Store,
        manifest: Manifest,
        config: DataConfig,
        split: str,
        sets: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        subject = manifest.subject(config.subject)
        parts = split.split("+")
        if missing := [part for part in parts if part not in subject.splits]:
            raise DataError(f"{config.subject}: no split {missing}, only {sorted(subject.splits)}")
        self.store = store
        self.subject_name = config.subject
        self.voxel_shape = (subject.num_repeats, subject.num_voxels)
        self.samples = [
            s for part in parts for shard in subject.splits[part] for s in read_index(store, shard)
        ]
        self.sources: dict[str, TargetSource] = {
            kind: StoredTargets(store, subject.target_set(kind, name), parts, self.samples)
            for kind, name in sets.items()
        }
        self._count_copies = config.count_copies
        # What is in memory or on its way there, so that batches read ahead fetch nothing twice.
        self._held: dict[Hashable, Future[np.ndarray]] = {}
        self._cache_left = int(config.cache_gib * 2**30)
        self._finite: set[str] = set()
        self._lock = Lock()
        self.buffers = Buffers()

    def __len__(self) -> int:
        return len(self.samples)

    def voxels(self, indices: Sequence[int]) -> list[Float[np.ndarray, "_ voxels"]]:
        """Return the distinct repeats of samples, at least one each."""
        return self._cached([("voxels", i) for i in indices], lambda new: self._fetch(new))

    def targets(self, kind: str, requests: Sequence[Request]) -> list[Float[np.ndarray, "..."]]:
        """Return targets of a kind by sample and variant."""
        return self._cached([(kind, *r) for r in requests], lambda new: self._read(kind, new))

    def each_target(
        self, kind: str, requests: Sequence[Request]
    ) -> Iterator[Float[np.ndarray, "..."]]:
        """Yield targets of a kind by sample and variant.

        From a folder of this machine they are read one after the other: each is checked and copied
        while the processor has it at hand.
        """
        if self.store.is_local and isinstance(self.sources[kind], StoredTargets):
            for request in requests:
                yield from self.targets(kind, [request])
        else:
            yield from self.targets(kind, requests)

    def averages(self) -> Float[np.ndarray, "pictures voxels"]:
        """Return each picture's mean over its distinct repeats."""
        rows = np.empty((len(self), self.voxel_shape[1]), np.float32)
        for start in range(0, len(self), 256):
            some = range(start, min(start + 256, len(self)))
            for i, repeats in zip(some, self.voxels(some), strict=True):
                rows[i] = single(repeats).mean(axis=0)
        return rows

    def all_targets(self, kind: str) -> Float[np.ndarray, "pictures ..."]:
        """Return every picture's own target of a kind."""
        rows = np.empty((len(self), *self.sources[kind].shape), np.float32)
        for start in range(0, len(self), 256):
            some = range(start, min(start + 256, len(self)))
            rows[some.start : some.stop] = self.targets(kind, [(i, 0) for i in some])
        return rows

    def pictures(self, indices: Sequence[int]) -> list[bytes]:
        """Return the encoded pictures of samples (jpg or png)."""
        return read_members(
            self.store, [(self.samples[i], picture_member(self.samples[i])) for i in indices]
        )

    def _cached(
        self,
        keys: Sequence[tuple[Any, ...]],
        fetch: Callable[[list[tuple[Any, ...]]], list[np.ndarray]],
    ) -> list[np.ndarray]:
        with self._lock:
            missing = [key for key in dict.fromkeys(keys) if key not in self._held]
            held = {key: self._held.setdefault(key, Future()) for key in keys}
        if missing:
            self._fill({key: held[key] for key in missing}, fetch)
        return [held[key].result() for key in keys]

    def _fill(
        self,
        missing: dict[tuple[Any, ...], Future[np.ndarray]],
        fetch: Callable[[list[tuple[Any, ...]]], list[np.ndarray]],
    ) -> None:
        try:
            arrays = fetch(list(missing))
        except BadSampleError as error:
            if len(missing) == 1:
                self._fail(missing, error)
                raise
            # One by one, so that those who wait for the others get them.
            left = dict(missing)
            for key, future in missing.items():
                del left[key]
                try:
                    self._fill({key: future}, fetch)
                except BadSampleError:
                    continue
                except Exception as error:
                    self._fail(left, error)
                    raise
            return
        except Exception as error:
            self._fail(missing, error)
            raise
        with self._lock:
            for (key, future), array in zip(missing.items(), arrays, strict=True):
                future.set_result(array)
                if array.nbytes <= self._cache_left:
                    self._cache_left -= array.nbytes
                else:
                    del self._held[key]

    def _fail(self, missing: dict[tuple[Any, ...], Future[np.ndarray]], error: Exception) -> None:
        with self._lock:
            for key, future in missing.items():
                del self._held[key]
                future.set_exception(error)

    def _read(self, kind: str, keys: list[tuple[Any, ...]]) -> list[np.ndarray]:
        return self.sources[kind].read([(i, variant) for _, i, variant in keys])

    def _fetch(self, keys: list[tuple[Any, ...]]) -> list[np.ndarray]:
        samples = [self.samples[i] for _, i in keys]
        parts = read_members(
            self.store, [(s, name) for s in samples for name in (VOXELS, DISTINCT)]
        )
        return [self._decode(sample, *parts[2 * i : 2 * i + 2]) for i, sample in enumerate(samples)]

    def _decode(self, sample: Sample, voxels: bytes, distinct: bytes) -> np.ndarray:
        where, counted = (
            MemberPlace(self.store, sample, suffix, self.subject_name)
            for suffix in (VOXELS, DISTINCT)
        )
        responses = checked_array(voxels, self.voxel_shape, where, self._finite)
        number = decode_npy(distinct, counted)
        if number.size != 1 or not 1 <= number.item() <= len(responses):
            raise BadSampleError(f"{counted}: is {number}, expected 1..{len(responses)}")
        # A copy that torch may write to; without, the cache would keep the other rows as well.
        return responses[: len(responses) if self._count_copies else int(number.item())].copy()


def picture_member(sample: Sample) -> str:
    """Return the name of the member that holds a sample's picture."""
    return "png" if "png" in sample.members else "jpg"


class TrainLoader:
    """Batches of one rank for training; `batch` is a pure function of the step.

    Attributes:
        bad: what was passed over where bad samples are skipped.
    """

    def __init__(self, dataset: Dataset, config: DataConfig, training: TrainingConfig) -> None:
        if training.global_batch_size > len(dataset):
            raise DataError(
                f"{config.subject}: training.global_batch_size {training.global_batch_size} "
                f"exceeds the {len(dataset)} training samples"
            )
        self.dataset = dataset
        self.config = config
        self.seed = training.seed
        names = np.array([sample.shard for sample in dataset.samples])
        self._shards = [np.flatnonzero(names == name) for name in dict.fromkeys(names.tolist())]
        self.global_batch_size = training.global_batch_size
        self.bad = BadSamples(config.subject, config.max_bad_samples)

    def epoch(self, step: int) -> int:
        """Return the epoch in which a step's batch starts."""
        return step * self.global_batch_size // len(self.dataset)

    def order(self, step: int) -> Int[np.ndarray, " batch"]:
        """Return the sample numbers of a step's global batch."""
        count = len(self.dataset)
        if self.config.sampling == "with_replacement":
            draw = numpy_generator(self.seed, "order", "with replacement", step)
            shards = draw.integers(0, len(self._shards), self.global_batch_size)
            return np.array([draw.choice(self._shards[shard]) for shard in shards.tolist()])
        stream = np.arange(step * self.global_batch_size, (step + 1) * self.global_batch_size)
        permutations = {
            epoch: numpy_generator(self.seed, "order", epoch).permutation(count)
            for epoch in np.unique(stream // count).tolist()
        }
        return np.array([permutations[p // count][p % count] for p in stream.tolist()])

    def batch(self, step: int, rank: int, world_size: int) -> Batch:
        """Return a rank's part of a step's global batch.

        Raises:
            BadSampleError: a sample is bad, and is to be raised.
            DataError: more samples are bad than may be skipped, or the bytes cannot be had.
        """
        order = self.order(step)
        own = local_slice(len(order), rank, world_size)
        indices = order[own].tolist()
        try:
            return self._read(step, own.start, indices)
        except BadSampleError:
            if self.config.on_bad_sample == "raise":
                raise
        good = [self._good(step, own.start + i, index) for i, index in enumerate(indices)]
        return self._read(step, own.start, good)

    def stand_ins(self, step: int, position: int) -> Int[np.ndarray, " samples"]:
        """Return who may take a sample's place in a batch: who is not in the batch comes first.

        A picture that is twice in a batch would be its own negative.
        """
        drawn = numpy_generator(self.seed, "stand-in", step, position).permutation(
            len(self.dataset)
        )
        inside = np.isin(drawn, self.order(step))
        return np.concatenate([drawn[~inside], drawn[inside]])

    def _good(self, step: int, position: int, index: int) -> int:
        """Return a sample, or the first that can be read of those who may take its place.

        Whether it can is asked anew each time and place, so that the answer is a function of these.
        """
        for candidate in chain([index], self.stand_ins(step, position).tolist()):
            try:
                self._read(step, position, [candidate])
            except BadSampleError as error:
                self.bad.note(step, candidate, error)
            else:
                if candidate != index:
                    self.bad.replaced[step, position] = (index, candidate)
                return candidate
        raise DataError(f"{self.config.subject}: no sample can be read")

    def _read(self, step: int, start: int, indices: Sequence[int]) -> Batch:
        num_repeats = self.dataset.voxel_shape[0]
        drawn = chances(self.seed, step, self.global_batch_size, num_repeats)
        voxels = [
            draw_repeat(
                repeats,
                self.config.repeat_draw,
                self._turn(step, start + i, index),
                drawn[start + i],
            )
            for i, (index, repeats) in enumerate(
                zip(indices, self.dataset.voxels(indices), strict=True)
            )
        ]
        targets: dict[str, Iterable[np.ndarray]] = {}
        for kind, source in self.dataset.sources.items():
            views = [self._view(source, step, start + i) for i in range(len(indices))]
            augmented = list(zip(indices, views, strict=True))
            if kind == "feature_map":  # the soft contrastive loss compares the two views
                targets["feature_map_augmented"] = self.dataset.each_target(kind, augmented)
                augmented = [(i, 0) for i in indices]
            elif kind == "latents":
                augmented = [(i, 0) for i in indices]
            targets[kind] = self.dataset.each_target(kind, augmented)
        place = (step, start, self.global_batch_size)
        return _batch(self.dataset, indices, voxels, targets, place)

    def _turn(self, step: int, position: int, index: int) -> int:
        """Return which row `cycle` and `step` take, modulo the number of rows."""
        if self.config.repeat_draw == "step":
            return step % max(1, len(self.dataset) // self.global_batch_size)
        return (step * self.global_batch_size + position) // len(self.dataset) + index

    def _view(self, source: TargetSource, step: int, position: int) -> int:
        """Return the variant of a target: one of the augmented ones where there are any."""
        if not self.config.augmented or source.variants == 0:
            return 0
        return 1 + int(numpy_generator(self.seed, "view", step, position).integers(source.variants))

    def batches(self, first: int, last: int, rank: int, world_size: int) -> Iterator[Batch]:
        """Yield the batches of steps first..last-1, read ahead in threads."""
        ahead = max(1, self.config.prefetch_batches)
        # A network is waited for by many threads; from a folder a second one takes a third more of
        # the processor and brings little.
        threads = 1 if self.dataset.store.is_local else ahead
        with ThreadPoolExecutor(max_workers=threads) as pool:
            pending: deque[Future[Batch]] = deque()
            try:
                for step in range(first, last):
                    while len(pending) < ahead and step + len(pending) < last:
                        pending.append(
                            pool.submit(self.batch, step + len(pending), rank, world_size)
                        )
                    yield pending.popleft().result()
            finally:
                for future in pending:
                    future.cancel()


def eval_batches(dataset: Dataset, size: int, rank: int, world_size: int) -> Iterator[Batch]:
    """Yield a rank's parts of a split's batches in order, distinct repeats averaged."""
    for number, start in enumerate(range(0, len(dataset), size)):
        count = min(size, len(dataset) - start)
        own = local_slice(count, rank, world_size)
        indices = list(range(start + own.start, start + own.stop))
        voxels = [single(rows).mean(axis=0) for rows in dataset.voxels(indices)]
        kinds = {kind: kind for kind in dataset.sources}
        if "feature_map" in kinds:
            kinds["feature_map_augmented"] = "feature_map"
        requests = [(i, 0) for i in indices]
        targets = {name: dataset.each_target(kind, requests) for name, kind in kinds.items()}
        yield _batch(dataset, indices, voxels, targets, (number, own.start, count))


def _batch(
    dataset: Dataset,
    indices: Sequence[int],
    voxels: Sequence[np.ndarray],
    targets: Mapping[str, Iterable[np.ndarray]],
    place: tuple[int, int, int],
) -> Batch:
    step, start, global_size = place
    shapes = {kind: source.shape for kind, source in dataset.sources.items()}
    shapes["feature_map_augmented"] = shapes.get("feature_map", ())
    stack, count = dataset.buffers.stack, len(indices)
    return Batch(
        voxels=stack(voxels, count, dataset.voxel_shape[1:]),
        targets={kind: stack(rows, count, shapes[kind]) for kind, rows in targets.items()},
        keys=tuple(dataset.samples[i].key for i in indices),
        step=step,
        start=start,
        global_size=global_size,
    )
