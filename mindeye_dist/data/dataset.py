"""Dataset: samples of one subject's split and their targets, by number."""

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TypeGuard

import numpy as np
from jaxtyping import Float, Shaped
from torch import Tensor

from mindeye_dist.batch import Batch
from mindeye_dist.config import DataConfig
from mindeye_dist.data.batch_buffers import Buffers
from mindeye_dist.data.manifest import Manifest
from mindeye_dist.data.members import MemberPlace, read_into, read_members
from mindeye_dist.data.memory_cache import MemoryCache
from mindeye_dist.data.repeats import put_single, single
from mindeye_dist.data.shards import DISTINCT, VOXELS, Sample, decode_npy, read_index
from mindeye_dist.data.target_encoder import TargetEncoder, Views, encode_views
from mindeye_dist.data.targets import (
    ComputedTargets,
    Request,
    StoredTargets,
    TargetSource,
    checked_array,
    is_finite,
)
from mindeye_dist.errors import BadSampleError, DataError
from mindeye_dist.storage.store import Store


class Dataset:
    """Random access to the samples of one subject's split, and to their targets.

    Args:
        store: the shards.
        manifest: the store's manifest.
        config: subject and size of the memory cache.
        split: "train", "val", "test", or several joined by "+".
        sets: name in the manifest of the stored set of each kind of target; computed targets are
            added to `sources`.

    Raises:
        DataError: on construction, if subject, split or a set are not in the manifest or a set's
            keys are not the samples'; on reading, if the bytes cannot be read.
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
        self._finite: set[str] = set()
        self._distinct: dict[int, int] = {}
        self._kept = MemoryCache(int(config.cache_gib * 2**30))

    def __len__(self) -> int:
        return len(self.samples)

    def voxels(self, indices: Sequence[int]) -> list[Float[np.ndarray, "_ voxels"]]:
        """Return the distinct repeats of samples, at least one each."""
        return list(self.each_voxels(indices))

    def each_voxels(self, indices: Sequence[int]) -> Iterator[Float[np.ndarray, "_ voxels"]]:
        """Yield them; from a folder each is read when it is asked for."""
        if self.store.is_local:
            return map(self._read_from_folder, indices)
        return iter(self._kept.get(indices, self._fetch))

    def targets(self, kind: str, requests: Sequence[Request]) -> list[Float[np.ndarray, "..."]]:
        """Return targets of a kind by sample and variant."""
        source = self.sources[kind]
        if self._is_page_cached(source):
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
        buffers: Buffers | None = None,
    ) -> Batch:
        """Return samples as a batch.

        Args:
            indices: of the samples.
            voxels: the response of each.
            targets: kind and requests by the name that they have in the batch.
            place: step, first place in the global batch, size of the global batch.
            buffers: memory to write the batch into; new memory by default.
        """
        step, start, global_size = place
        buffers = buffers or Buffers()
        return Batch(
            voxels=buffers.fill(
                "voxels",
                (len(indices), self.voxel_shape[1]),
                np.float32,
                lambda _, row: put_single(next(voxels), row),
            ),
            targets={name: self._stacked(buffers, name, *asked) for name, asked in targets.items()},
            keys=tuple(self.samples[i].key for i in indices),
            step=step,
            start=start,
            global_size=global_size,
        )

    def _stacked(
        self, buffers: Buffers, name: str, kind: str, requests: Sequence[Request]
    ) -> Shaped[Tensor, "batch ..."]:
        source = self.sources[kind]
        shape = (len(requests), *source.shape)
        if self._is_page_cached(source):
            put = source.read_into
            return buffers.fill(name, shape, np.float16, lambda n, row: put(requests[n], row))
        rows = self.targets(kind, requests)
        dtype = rows[0].dtype if rows else np.float32
        return buffers.fill(name, shape, dtype, lambda n, _: rows[n])

    def _is_page_cached(self, source: TargetSource) -> TypeGuard[StoredTargets]:
        """Return whether the operating system's page cache serves this source."""
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

    def _read_from_folder(self, index: int) -> np.ndarray:
        """Read a sample from a folder; its number of distinct repeats is cached."""
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
        # A copy: torch may write to it, and a view would keep the other rows in the cache as well.
        return responses[: int(number.item())].copy()


def picture_member(sample: Sample) -> str:
    """Return the name of the member that holds a sample's picture."""
    return "png" if "png" in sample.members else "jpg"


def computed_targets(dataset: Dataset, encoder: TargetEncoder, views: Views) -> ComputedTargets:
    """Return targets that are computed on request, equal to stored ones."""

    def encode(requests: Sequence[Request]) -> np.ndarray:
        numbers = list(dict.fromkeys(i for i, _ in requests))
        names = [f"{dataset.subject_name}: sample {dataset.samples[i].key}" for i in numbers]
        places = [(numbers.index(i), variant) for i, variant in requests]
        return np.stack(encode_views(encoder, views, dataset.pictures(numbers), names, places))

    return ComputedTargets(encode, encoder.shape, views.count)
