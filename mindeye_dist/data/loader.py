"""Loader: shards -> Batch, in an order that is a function of (seed, epoch) alone.

The samples of all epochs form one stream, each epoch a permutation of the split; optimizer step s
takes samples s*B .. (s+1)*B of it, so a batch may span two epochs, every sample is seen once an
epoch, and the position in the stream is the step and nothing else. Each rank reads its rows of the
global batch. Only members in use are read, each is verified, and decoded samples stay in memory up
to a limit.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock

import numpy as np
import torch
from jaxtyping import Float, Int

from mindeye_dist.batch import Batch
from mindeye_dist.config import DataConfig, TrainingConfig
from mindeye_dist.data.shards import (
    Manifest,
    Sample,
    decode_npy,
    read_index,
    read_members,
)
from mindeye_dist.data.store import DataError, Store
from mindeye_dist.distributed import local_slice
from mindeye_dist.randomness import numpy_generator

VOXELS = "nsdgeneral.npy"
DISTINCT = "num_uniques.npy"
TOKENS = "clip_tokens.npy"


@dataclass(frozen=True)
class Response:
    """One picture's decoded sample.

    Attributes:
        voxels: the distinct repeats only, at least one.
        clip_tokens: the picture's target.
    """

    voxels: Float[np.ndarray, "repeats voxels"]
    clip_tokens: Float[np.ndarray, "tokens dim"]

    @property
    def num_bytes(self) -> int:
        """Memory that the arrays take."""
        return self.voxels.nbytes + self.clip_tokens.nbytes


class Dataset:
    """Random access to the samples of one subject's split.

    Raises:
        DataError: on construction, if subject, split or targets are not in the manifest or the
            targets' shards do not hold the same keys; on reading, if a member is missing, corrupt,
            of another shape, or not finite.
    """

    def __init__(self, store: Store, manifest: Manifest, config: DataConfig, split: str) -> None:
        subject = manifest.subject(config.subject)
        if split not in subject.splits:
            raise DataError(f"{config.subject}: no split {split!r}, only {sorted(subject.splits)}")
        targets = subject.clip_targets(config.targets)
        self.store = store
        self.subject_name = config.subject
        self.voxel_shape = (subject.num_repeats, subject.num_voxels)
        self.token_shape = (targets.num_tokens, targets.dim)
        self.samples = [s for shard in subject.splits[split] for s in read_index(store, shard)]
        self.targets = [s for shard in targets.splits[split] for s in read_index(store, shard)]
        if [s.key for s in self.samples] != [t.key for t in self.targets]:
            raise DataError(
                f"{config.subject}: {split}: keys of the targets are not those of the samples"
            )
        self._cache: dict[int, Response] = {}
        self._cache_left = int(config.cache_gib * 2**30)
        self._cache_lock = Lock()

    def __len__(self) -> int:
        return len(self.samples)

    def read(self, indices: Sequence[int]) -> list[Response]:
        """Return samples by their number, from memory or from the store."""
        missing = [i for i in dict.fromkeys(indices) if i not in self._cache]
        fresh = dict(zip(missing, self._fetch(missing), strict=True)) if missing else {}
        with self._cache_lock:
            for index, response in fresh.items():
                if response.num_bytes <= self._cache_left and index not in self._cache:
                    self._cache_left -= response.num_bytes
                    self._cache[index] = response
        return [self._cache[i] if i in self._cache else fresh[i] for i in indices]

    def averages(
        self,
    ) -> tuple[Float[np.ndarray, "pictures voxels"], Float[np.ndarray, "pictures tokens dim"]]:
        """Return each picture's mean over its distinct repeats, and its clip_tokens."""
        shape = (len(self), self.voxel_shape[1])
        voxels, tokens = (
            np.empty(shape, np.float32),
            np.empty((len(self), *self.token_shape), np.float32),
        )
        for start in range(0, len(self), 256):
            for i, response in enumerate(
                self.read(range(start, min(start + 256, len(self)))), start
            ):
                voxels[i] = response.voxels.astype(np.float32).mean(axis=0)
                tokens[i] = response.clip_tokens
        return voxels, tokens

    def pictures(self, indices: Sequence[int]) -> list[bytes]:
        """Return the encoded pictures of samples (jpg or png)."""
        requests = [
            (self.samples[i], "png" if "png" in self.samples[i].members else "jpg") for i in indices
        ]
        return read_members(self.store, requests)

    def _fetch(self, indices: Sequence[int]) -> list[Response]:
        requests = [
            request
            for i in indices
            for request in (
                (self.samples[i], VOXELS),
                (self.samples[i], DISTINCT),
                (self.targets[i], TOKENS),
            )
        ]
        parts = read_members(self.store, requests)
        return [
            self._decode(self.samples[index], *parts[3 * i : 3 * i + 3])
            for i, index in enumerate(indices)
        ]

    def _decode(self, sample: Sample, voxels: bytes, distinct: bytes, tokens: bytes) -> Response:
        where = f"{self.subject_name}: {self.store.locate(sample.shard)}: sample {sample.key}"
        responses = _checked(
            decode_npy(voxels, f"{where}: {VOXELS}"), self.voxel_shape, f"{where}: {VOXELS}"
        )
        targets = _checked(
            decode_npy(tokens, f"{where}: {TOKENS}"), self.token_shape, f"{where}: {TOKENS}"
        )
        number = decode_npy(distinct, f"{where}: {DISTINCT}")
        if number.size != 1 or not 1 <= number.item() <= len(responses):
            raise DataError(f"{where}: {DISTINCT} is {number}, expected 1..{len(responses)}")
        # A copy, or the cache would keep the other rows as well.
        return Response(responses[: int(number.item())].copy(), targets)


class TrainLoader:
    """Batches of one rank for training; `batch` is a pure function of the step."""

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

    def epoch(self, step: int) -> int:
        """Return the epoch in which a step's batch starts."""
        return step * self.global_batch_size // len(self.dataset)

    def order(self, step: int) -> Int[np.ndarray, " batch"]:
        """Return the sample numbers of a step's global batch."""
        count = len(self.dataset)
        stream = np.arange(step * self.global_batch_size, (step + 1) * self.global_batch_size)
        permutations = {
            epoch: numpy_generator(self.seed, "order", epoch).permutation(count)
            for epoch in np.unique(stream // count).tolist()
        }
        return np.array([permutations[p // count][p % count] for p in stream.tolist()])

    def batch(self, step: int, rank: int, world_size: int) -> Batch:
        """Return a rank's part of a step's global batch."""
        order = self.order(step)
        own = local_slice(len(order), rank, world_size)
        indices = order[own].tolist()
        responses = self.dataset.read(indices)
        voxels = [
            draw_repeat(
                response.voxels,
                self.config.repeat_draw,
                (step * self.global_batch_size + own.start + i) // len(self.dataset) + index,
                numpy_generator(self.seed, "repeat", step, own.start + i),
            )
            for i, (index, response) in enumerate(zip(indices, responses, strict=True))
        ]
        return _batch(self.dataset, indices, voxels, responses, (step, own.start, len(order)))

    def batches(self, first: int, last: int, rank: int, world_size: int) -> Iterator[Batch]:
        """Yield the batches of steps first..last-1, read ahead in threads."""
        ahead = max(1, self.config.prefetch_batches)
        with ThreadPoolExecutor(max_workers=min(ahead, 4)) as pool:
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
        responses = dataset.read(indices)
        voxels = [response.voxels.astype(np.float32).mean(axis=0) for response in responses]
        yield _batch(dataset, indices, voxels, responses, (number, own.start, count))


def draw_repeat(
    voxels: Float[np.ndarray, "repeats voxels"],
    how: str,
    turn: int,
    generator: np.random.Generator,
) -> Float[np.ndarray, " voxels"]:
    """Return one training response made of a picture's distinct repeats.

    `cycle` takes row `turn` modulo their number, `random` any row, `mean` their mean.
    `random_combine` is the published low-level recipe, drawn for each sample: with 50 % a random
    convex combination, with 30 % the mean, else any row.
    """
    repeats = voxels.astype(np.float32)
    if how == "random_combine":
        chance = generator.random()
        if chance < 0.5:
            weights = generator.random(len(repeats)).astype(np.float32)
            return weights / weights.sum() @ repeats
        how = "mean" if chance < 0.8 else "random"
    if how == "mean":
        return repeats.mean(axis=0)
    return repeats[turn % len(repeats) if how == "cycle" else generator.integers(len(repeats))]


def _batch(
    dataset: Dataset,
    indices: Sequence[int],
    voxels: Sequence[np.ndarray],
    responses: Sequence[Response],
    place: tuple[int, int, int],
) -> Batch:
    step, start, global_size = place
    empty_voxels = np.empty((0, dataset.voxel_shape[1]), np.float32)
    empty_tokens = np.empty((0, *dataset.token_shape), np.float32)
    return Batch(
        voxels=torch.from_numpy(np.stack(voxels) if voxels else empty_voxels),
        clip_tokens=torch.from_numpy(
            np.stack([r.clip_tokens for r in responses]).astype(np.float32)
            if responses
            else empty_tokens
        ),
        keys=tuple(dataset.samples[i].key for i in indices),
        step=step,
        start=start,
        global_size=global_size,
    )


def _checked(array: np.ndarray, shape: tuple[int, ...], where: str) -> np.ndarray:
    if array.shape != shape or array.dtype.kind != "f":
        raise DataError(
            f"{where}: got {array.dtype} {array.shape}, expected floating point {shape}"
        )
    if not np.isfinite(array).all():
        raise DataError(f"{where}: {np.count_nonzero(~np.isfinite(array))} values are not finite")
    return array
