"""Pool: a large set of pictures on disk, searched by embeddings.

In: embeddings (brains, tokens * dim). Out: indices and cosines of the nearest pictures. The first
stage finds candidates by a few principal components through a FAISS index, approximately; the
second ranks the candidates by all tokens. It replaces the public index that the published MindEye
retrieves from (Scotti et al. 2023, section 4.1), which no longer exists.
"""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from mindeye_dist.data.members import read_members
from mindeye_dist.data.shards import Sample, read_index
from mindeye_dist.decoding.pools.faiss_files import (
    CHECKSUMS,
    COMPONENTS,
    INDEX,
    JPEG,
    SOURCE,
    THUMBNAILS,
    TOKENS,
    memory_map,
    read_pool_record,
    tokens_checksum,
)
from mindeye_dist.decoding.pools.faiss_index import (
    BLOCK_BYTES,
    read_search_index,
    search_index,
    unit_tokens,
)
from mindeye_dist.errors import DataError, InputError
from mindeye_dist.pictures import THUMBNAIL_SIDE, copies_among, decode, thumbnail
from mindeye_dist.shapes import TargetShape
from mindeye_dist.storage.store import Store
from mindeye_dist.strict import check


class Pool:
    """Pictures by number, and the search among them.

    Args:
        folder: output of `build_pool`.
        targets: clip_tokens that the searching checkpoint was trained on.

    Raises:
        DataError: the pool is incomplete or damaged, or its encoder is another one.
    """

    def __init__(self, folder: Path, targets: TargetShape) -> None:
        self.folder = folder
        self.record = read_pool_record(folder, targets)
        count, features = self.record.count, int(np.prod(self.record.shape))
        self._tokens = memory_map(folder / TOKENS, (count, *self.record.shape), "float16")
        self._checksums = memory_map(folder / CHECKSUMS, (count,), "uint64")
        side = THUMBNAIL_SIDE
        self._thumbnails = memory_map(folder / THUMBNAILS, (count, side, side, 3), "uint8")
        dim = self.record.num_components
        self._components = memory_map(folder / COMPONENTS, (dim, features), "float32")
        self._index = read_search_index(folder / INDEX, count, dim)
        self._verified = np.zeros(count, bool)
        self._store = Store(str(folder))
        self._ends = np.cumsum([shard.num_samples for shard in self.record.shards])
        self._samples: dict[int, list[Sample]] = {}

    def __len__(self) -> int:
        return self.record.count

    def search(
        self,
        embeddings: Float[np.ndarray, "brains features"],
        k: int,
        candidates: int = 300,
        nprobe: int = 16,
        excluded: Collection[int] = (),
    ) -> tuple[Int[np.ndarray, "brains k"], Float[np.ndarray, "brains k"]]:
        """Return numbers of each brain's nearest pictures, best first, and their cosines.

        Args:
            embeddings: flattened tokens of any norm above 0.
            k: number of pictures per brain.
            candidates: number of pictures that pass the first stage (published: 300); the search is
                exact if that is all of them.
            nprobe: number of the index's lists that are searched, if it has lists.
            excluded: numbers of pictures that must not be returned.

        Raises:
            InputError: the embeddings have another width, are not finite or have norm 0; k is
                larger than the number of candidates, or than the searched lists hold.
            DataError: a picture's tokens are damaged.
        """
        brains = self._unit_embeddings(embeddings)
        barred = np.unique(np.fromiter(excluded, np.int64))
        left = len(self) - len(barred)
        outside = barred[(barred < 0) | (barred >= len(self))]
        check(not len(outside), "excluded", outside.tolist(), f"0 to {len(self) - 1}")
        check(1 <= k <= left, "k", k, f"1 to the {left} pictures of {self.folder} that are left")
        check(k <= candidates, "candidates", candidates, f"at least k, {k}")
        check(nprobe >= 1, "nprobe", nprobe, "1 or more")
        numbers = np.empty((len(brains), k), np.int64)
        cosines = np.empty((len(brains), k), np.float32)
        for brain, found in enumerate(self._candidates(brains, candidates, nprobe, barred)):
            if len(found) < k:
                raise InputError(
                    f"nprobe: got {nprobe}, whose lists hold {len(found)} candidates for brain "
                    f"{brain}, expected at least k, {k}"
                )
            similarities = self._cosines(brains[brain], found)
            # The candidates are in ascending order, so of equal cosines the lower number wins.
            best = np.argsort(-similarities, kind="stable")[:k]
            numbers[brain], cosines[brain] = found[best], similarities[best]
        return numbers, cosines

    def pictures(self, numbers: Sequence[int]) -> list[bytes]:
        """Return pictures as JPEG files."""
        return read_members(self._store, [(self._sample(n), JPEG) for n in numbers])

    def sources(self, numbers: Sequence[int]) -> list[str]:
        """Return the names of pictures in the folder or tar that the pool was built from."""
        members = [(self._sample(n), SOURCE) for n in numbers]
        return [text.decode() for text in read_members(self._store, members)]

    def copies_of(self, pictures: Sequence[bytes]) -> list[int]:
        """Return numbers of the pool's copies of the given pictures.

        Resized and recompressed copies are recognised, other crops are not.

        Raises:
            DataError: one of the given pictures cannot be read.
        """
        if not pictures:
            return []
        decoded = (decode(data, f"picture {n}") for n, data in enumerate(pictures))
        given = np.stack([thumbnail(rgb) for rgb in decoded])
        # A block's comparisons fit in BLOCK_BYTES, beside the block itself.
        rows = max(1, BLOCK_BYTES // (4 * len(given)))
        blocks = range(0, len(self), rows)
        copies = [copies_among(self._thumbnails[i : i + rows], given) for i in blocks]
        return [int(number) for number in np.flatnonzero(np.concatenate(copies))]

    def _unit_embeddings(
        self, embeddings: Float[np.ndarray, "brains features"]
    ) -> Float[np.ndarray, "brains features"]:
        features = int(np.prod(self.record.shape))
        if embeddings.shape[1] != features:
            raise InputError(
                f"embeddings: got {embeddings.shape[1]} features, expected {features} as "
                f"{self.folder} has {self.record.shape[0]} tokens of {self.record.shape[1]}"
            )
        norm = np.linalg.norm(embeddings.astype(np.float32), axis=1, keepdims=True)
        if len(bad := np.flatnonzero(~np.isfinite(norm) | (norm == 0))):
            raise InputError(
                f"embeddings: row {bad[0]} has norm {norm[bad[0], 0]}, expected a finite norm "
                "above 0"
            )
        unit: np.ndarray = embeddings.astype(np.float32) / norm
        return unit

    def _candidates(
        self,
        brains: Float[np.ndarray, "brains features"],
        candidates: int,
        nprobe: int,
        barred: Int[np.ndarray, " barred"],
    ) -> Iterator[Int[np.ndarray, " candidates"]]:
        """Yield the candidates of each brain, in order of their numbers."""
        everything = np.setdiff1d(np.arange(len(self)), barred)
        if candidates >= len(everything):
            for _ in brains:
                yield everything
            return
        # At least `candidates` are left after the barred ones are removed.
        requested = candidates + len(barred)
        at_once = max(1, BLOCK_BYTES // (12 * requested))
        for start in range(0, len(brains), at_once):
            queries = brains[start : start + at_once] @ self._components.T
            for row in search_index(self._index, queries, requested, nprobe):
                allowed = row[(row >= 0) & ~np.isin(row, barred)]
                yield np.sort(allowed[:candidates])

    def _cosines(
        self, brain: Float[np.ndarray, " features"], numbers: Int[np.ndarray, " candidates"]
    ) -> Float[np.ndarray, " candidates"]:
        at_once = max(1, BLOCK_BYTES // (4 * len(brain)))
        parts = []
        for start in range(0, len(numbers), at_once):
            some = numbers[start : start + at_once]
            tokens = self._tokens[some]
            self._check_tokens(some, tokens)
            parts.append(unit_tokens(tokens) @ brain)
        return np.concatenate(parts)

    def _check_tokens(
        self, numbers: Int[np.ndarray, " some"], tokens: Float[np.ndarray, "some tokens dim"]
    ) -> None:
        for position in np.flatnonzero(~self._verified[numbers]):
            number = int(numbers[position])
            if tokens_checksum(tokens[position]) != self._checksums[number]:
                raise DataError(
                    f"{self.folder / TOKENS}: the tokens of picture {number} are damaged: their "
                    "checksum is not the one that they were written with"
                )
            self._verified[number] = True

    def _sample(self, number: int) -> Sample:
        if not 0 <= number < len(self):
            raise InputError(f"picture: got {number}, expected 0 to {len(self) - 1}")
        shard = int(np.searchsorted(self._ends, number, side="right"))
        if shard not in self._samples:
            self._samples[shard] = read_index(self._store, self.record.shards[shard])
        return self._samples[shard][number - int(self._ends[shard])]
