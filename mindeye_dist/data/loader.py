"""Loader: shards -> Batch, in an order that is a function of (seed, epoch) alone.

The samples of all epochs form one stream, each epoch a permutation of the split; optimizer step s
takes samples s*B .. (s+1)*B of it, so a batch may span two epochs, every sample is seen once an
epoch, and the position in the stream is the step and nothing else. Each rank reads its rows of the
global batch. Only members in use are read, each is verified. Samples from a bucket and computed
targets stay in memory up to a limit; the operating system caches those in a folder.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from itertools import chain

import numpy as np
from jaxtyping import Int

from mindeye_dist.batch import Batch
from mindeye_dist.config import DataConfig, TrainingConfig
from mindeye_dist.data.bad_samples import BadSamples
from mindeye_dist.data.batch_buffers import Buffers
from mindeye_dist.data.dataset import Dataset
from mindeye_dist.data.repeats import chances, draw_repeat, single
from mindeye_dist.data.targets import Request, TargetSource
from mindeye_dist.distributed import local_slice
from mindeye_dist.errors import BadSampleError, DataError
from mindeye_dist.randomness import numpy_generator


class TrainLoader:
    """Batches of one rank for training; `batch` is a pure function of the step.

    `batch` returns new memory. `batches` writes into a ring of prefetch_batches + 2 buffers: a
    batch is valid until the third one after it is requested. Code that needs a batch for longer
    has to copy it; `Batch.to` does not copy float32 tensors that are on the device already.

    Attributes:
        bad: bad samples that were skipped.
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
        self.global_batch_size = training.global_batch_size
        self.bad = BadSamples(config.subject, config.max_bad_samples)

    def epoch(self, step: int) -> int:
        """Return the epoch in which a step's batch starts."""
        return step * self.global_batch_size // len(self.dataset)

    def order(self, step: int) -> Int[np.ndarray, " batch"]:
        """Return the sample numbers of a step's global batch."""
        count = len(self.dataset)
        stream = np.arange(step * self.global_batch_size, (step + 1) * self.global_batch_size)
        epochs = np.unique(stream // count).tolist()
        return np.concatenate(
            [permutation(self.seed, e, count)[stream[stream // count == e] % count] for e in epochs]
        )

    def batch(self, step: int, rank: int, world_size: int, buffers: Buffers | None = None) -> Batch:
        """Return a rank's part of a step's global batch, in new memory unless buffers are given.

        Raises:
            BadSampleError: a sample is bad, and `data.on_bad_sample` is `raise`.
            DataError: there are more bad samples than may be skipped, or bytes cannot be read.
        """
        order = self.order(step)
        own = local_slice(len(order), rank, world_size)
        indices = order[own].tolist()
        try:
            return self._read(step, own.start, indices, buffers)
        except BadSampleError:
            if self.config.on_bad_sample == "raise":
                raise
        good = [self._good(step, own.start + i, index) for i, index in enumerate(indices)]
        return self._read(step, own.start, good, buffers)

    def replacements(self, step: int, position: int) -> Int[np.ndarray, " samples"]:
        """Return replacements for a bad sample, those not in the batch first.

        A picture that is twice in a batch would be its own negative.
        """
        drawn = numpy_generator(self.seed, "stand-in", step, position).permutation(
            len(self.dataset)
        )
        inside = np.isin(drawn, self.order(step))
        return np.concatenate([drawn[~inside], drawn[inside]])

    def _good(self, step: int, position: int, index: int) -> int:
        """Return the sample, or its first replacement that can be read.

        Samples are read again at each step and position, so that the result depends on these alone.
        """
        for candidate in chain([index], self.replacements(step, position).tolist()):
            try:
                self._read(step, position, [candidate])
            except BadSampleError as error:
                self.bad.note(step, candidate, error)
            else:
                if candidate != index:
                    self.bad.replaced[step, position] = (index, candidate)
                return candidate
        raise DataError(f"{self.config.subject}: no sample can be read")

    def _read(
        self, step: int, start: int, indices: Sequence[int], buffers: Buffers | None = None
    ) -> Batch:
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
        return self.dataset.batch(indices, responses, targets, place, buffers)

    def _turn(self, step: int, position: int, index: int) -> int:
        """Return the row that `cycle` takes, modulo the number of rows."""
        return (step * self.global_batch_size + position) // len(self.dataset) + index

    def _view(self, source: TargetSource, step: int, position: int) -> int:
        """Return the variant of a target: a random augmented one, or 0 if there is none."""
        if not self.config.augmented or source.variants == 0:
            return 0
        return 1 + int(numpy_generator(self.seed, "view", step, position).integers(source.variants))

    def batches(self, first: int, last: int, rank: int, world_size: int) -> Iterator[Batch]:
        """Yield the batches of steps first..last-1, read ahead by threads into the ring."""
        ahead = max(1, self.config.prefetch_batches)
        ring = [Buffers() for _ in range(ahead + 2)]
        # Many threads wait for a network. From a folder, a second thread takes a third more CPU
        # time and gains little.
        threads = 1 if self.dataset.store.is_local else ahead
        with ThreadPoolExecutor(max_workers=threads) as pool:
            pending: deque[Future[Batch]] = deque()
            try:
                for step in range(first, last):
                    while len(pending) < ahead and step + len(pending) < last:
                        new = step + len(pending)
                        buffers = ring[new % len(ring)]
                        pending.append(pool.submit(self.batch, new, rank, world_size, buffers))
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
