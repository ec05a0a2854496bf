"""Loader: shards -> Batch, in an order that is a function of (seed, epoch) alone.

The samples of all epochs form one stream, each epoch a permutation of the split; optimizer step s
takes samples s*B .. (s+1)*B of it, so a batch may span two epochs, every sample is seen once an
epoch, and the position in the stream is the step and nothing else. Each rank reads its rows of the
global batch. Only members in use are read, each is verified. What comes from a bucket or is
computed stays in memory up to a limit; what lies in a folder the system itself keeps.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from itertools import chain
from types import MappingProxyType
from typing import TypeGuard

import numpy as np
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from mindeye_dist.batch import Batch
from mindeye_dist.config import DataConfig, TrainingConfig
from mindeye_dist.data.bad_samples import BadSamples
from mindeye_dist.data.buffers import Buffers
from mindeye_dist.data.members import MemberPlace, read_into, read_members
from mindeye_dist.data.read_once import ReadOnce
from mindeye_dist.data.repeats import chances, draw_repeat, put_single, single
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
from mindeye_dist.data.targets import Request, StoredTargets, TargetSource, checked_array, is_finite
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
        self._finite: set[str] = set()
        self._distinct: dict[int, int] = {}
        self._kept = ReadOnce(int(config.cache_gib * 2**30))
        self._buffers = Buffers()

    def __len__(self) -> int:
        return len(self.samples)

    def voxels(self, indices: Sequence[int]) -> list[Float[np.ndarray, "_ voxels"]]:
        """Return the distinct repeats of samples, at least one each."""
        return list(self.each_voxels(indices))

    def each_voxels(self, indices: Sequence[int]) -> Iterator[Float[np.ndarray, "_ voxels"]]:
        """Yield them; from a folder each is read when it is asked for."""
        if self.store.is_local:
            return map(self._read_here, indices)
        return iter(self._kept.get(indices, self._fetch))

    def targets(self, kind: str, requests: Sequence[Request]) -> list[Float[np.ndarray, "..."]]:
        """Return targets of a kind by sample and variant."""
        source = self.sources[kind]
        if self._is_at_hand(source):
            return source.read(requests)
        return self._kept.get(
            [(kind, *request) for request in requests],
            lambda new: source.read([(i, variant) for _, i, variant in new]),
        )

    def batch(
        self,
        indices: Sequence[int],
        voxels: Iterator[Float[np.ndarray, " voxels"]],
        targets: Mapping[str, tuple[str, Sequence[Request]]],
        place: tuple[int, int, int],
    ) -> Batch:
        """Return samples as a batch, in memory that is taken again once nobody has it.

        Args:
            indices: of the samples.
            voxels: the response of each.
            targets: kind and requests by the name that they have in the batch.
            place: step, first place in the global batch, size of the global batch.
        """
        step, start, global_size = place
        return Batch(
            voxels=self._buffers.fill(
                (len(indices), self.voxel_shape[1]),
                np.float32,
                lambda _, row: put_single(next(voxels), row),
            ),
            targets={name: self._stacked(*asked) for name, asked in targets.items()},
            keys=tuple(self.samples[i].key for i in indices),
            step=step,
            start=start,
            global_size=global_size,
        )

    def _stacked(self, kind: str, requests: Sequence[Request]) -> Shaped[Tensor, "batch ..."]:
        source = self.sources[kind]
        shape = (len(requests), *source.shape)
        if self._is_at_hand(source):
            put = source.read_into
            return self._buffers.fill(shape, np.float16, lambda n, row: put(requests[n], row))
        rows = self.targets(kind, requests)
        return self._buffers.fill(
            shape, rows[0].dtype if rows else np.float32, lambda n, _: rows[n]
        )

    def _is_at_hand(self, source: TargetSource) -> TypeGuard[StoredTargets]:
        """Return whether the system keeps what was read lately, so that nothing else needs to."""
        return self.store.is_local and isinstance(source, StoredTargets)

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

    def _read_here(self, index: int) -> np.ndarray:
        """Return what `_fetch` does, without the number of repeats where it was read before."""
        sample, number = self.samples[index], self._distinct.get(index)
        if number:
            responses = np.empty(self.voxel_shape, np.float16)
            if read_into(self.store, sample, VOXELS, responses) and is_finite(
                responses, sample.member(VOXELS).checksum, self._finite
            ):
                return responses[:number]
        responses = self._fetch([index])[0]
        self._distinct[index] = len(responses)
        return responses

    def _fetch(self, indices: Sequence[int]) -> list[np.ndarray]:
        samples = [self.samples[i] for i in indices]
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
        epochs = np.unique(stream // count).tolist()
        return np.concatenate(
            [permutation(self.seed, e, count)[stream[stream // count == e] % count] for e in epochs]
        )

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
        how, repeats = self.config.repeat_draw, self.dataset.each_voxels(indices)
        responses = (
            draw_repeat(next(repeats), how, self._turn(step, place, index), drawn[place])
            for place, index in enumerate(indices, start)
        )
        targets: dict[str, tuple[str, Sequence[Request]]] = {}
        for kind, source in self.dataset.sources.items():
            views = [self._view(source, step, start + i) for i in range(len(indices))]
            augmented = list(zip(indices, views, strict=True))
            if kind == "feature_map":  # the soft contrastive loss compares the two views
                targets["feature_map_augmented"] = (kind, augmented)
            own = [(i, 0) for i in indices] if kind in ("feature_map", "latents") else augmented
            targets[kind] = (kind, own)
        place = (step, start, self.global_batch_size)
        return self.dataset.batch(indices, responses, targets, place)

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


@lru_cache(maxsize=4)  # each step of an epoch takes some of it
def permutation(seed: int, epoch: int, count: int) -> Int[np.ndarray, " count"]:
    """Return the order of an epoch's samples; not to be written to."""
    return numpy_generator(seed, "order", epoch).permutation(count)


def eval_batches(dataset: Dataset, size: int, rank: int, world_size: int) -> Iterator[Batch]:
    """Yield a rank's parts of a split's batches in order, distinct repeats averaged."""
    for number, start in enumerate(range(0, len(dataset), size)):
        count = min(size, len(dataset) - start)
        own = local_slice(count, rank, world_size)
        indices = list(range(start + own.start, start + own.stop))
        means = (single(repeats).mean(axis=0) for repeats in dataset.each_voxels(indices))
        kinds = {kind: kind for kind in dataset.sources}
        if "feature_map" in kinds:
            kinds["feature_map_augmented"] = "feature_map"
        targets = {name: (kind, [(i, 0) for i in indices]) for name, kind in kinds.items()}
        place = (number, own.start, count)
        yield dataset.batch(indices, means, targets, place)
