"""Pool: a large pool of pictures on disk, and the nearest of them to what a brain says.

Takes the place of the public index that published MindEye retrieves from (Scotti et al. 2023,
section 4.1), which is gone. A first stage compares a few components of the tokens through a FAISS
index, approximately; what it lets through is ranked again by all tokens.
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
    mapped,
    open_about,
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
        folder: made by `build_pool`.
        targets: by what the asker's embeddings are compared with: a checkpoint's clip_tokens.

    Raises:
        DataError: there is no finished pool, it is damaged, or it is by another encoder.
    """

    def __init__(self, folder: Path, targets: TargetShape) -> None:
        self.folder = folder
        self.about = open_about(folder, targets)
        count, features = self.about.count, int(np.prod(self.about.shape))
        self._tokens = mapped(folder / TOKENS, (count, *self.about.shape), "float16")
        self._checksums = mapped(folder / CHECKSUMS, (count,), "uint64")
        side = THUMBNAIL_SIDE
        self._thumbnails = mapped(folder / THUMBNAILS, (count, side, side, 3), "uint8")
        dim = self.about.num_components
        self._components = mapped(folder / COMPONENTS, (dim, features), "float32")
        self._index = read_search_index(folder / INDEX, count, dim)
        self._verified = np.zeros(count, bool)
        self._store = Store(str(folder))
        self._ends = np.cumsum([shard.num_samples for shard in self.about.shards])
        self._samples: dict[int, list[Sample]] = {}

    def __len__(self) -> int:
        return self.about.count

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
            embeddings: flattened tokens of any length, as `Predictor.embed` gives.
            k: pictures for each brain.
            candidates: pictures that the first stage lets through (published: 300 asked for); the
                search is exact where they are as many as there are.
            nprobe: lists of the index that are looked through, if it has lists.
            excluded: numbers of pictures that are no answer.

        Raises:
            InputError: embeddings of another width, not finite or of no length; more pictures
                asked for than candidates, or than the probed lists hold.
            DataError: tokens of a picture are damaged.
        """
        brains = self._unit_brains(embeddings)
        barred = np.unique(np.fromiter(excluded, np.int64))
        left = len(self) - len(barred)
        outside = barred[(barred < 0) | (barred >= len(self))]
        check(not len(outside), "excluded", outside.tolist(), f"0 to {len(self) - 1}")
        check(1 <= k <= left, "k", k, f"1 to the {left} pictures of {self.folder} that are left")
        check(k <= candidates, "candidates", candidates, f"at least k, {k}")
        check(nprobe >= 1, "nprobe", nprobe, "1 or more")
        numbers = np.empty((len(brains), k), np.int64)
        cosines = np.empty((len(brains), k), np.float32)
        for brain, found in enumerate(self._first_stage(brains, candidates, nprobe, barred)):
            if len(found) < k:
                raise InputError(
                    f"nprobe: got {nprobe}, whose lists hold {len(found)} candidates for brain "
                    f"{brain}, expected at least k, {k}"
                )
            similarities = self._cosines(brains[brain], found)
            # Candidates are in order of their numbers, which settles ties.
            best = np.argsort(-similarities, kind="stable")[:k]
            numbers[brain], cosines[brain] = found[best], similarities[best]
        return numbers, cosines

    def pictures(self, numbers: Sequence[int]) -> list[bytes]:
        """Return pictures as JPEG files."""
        return read_members(self._store, [(self._sample(n), JPEG) for n in numbers])

    def sources(self, numbers: Sequence[int]) -> list[str]:
        """Return what pictures were called where they came from."""
        members = [(self._sample(n), SOURCE) for n in numbers]
        return [text.decode() for text in read_members(self._store, members)]

    def copies_of(self, pictures: Sequence[bytes]) -> list[int]:
        """Return numbers of the pool's copies of pictures, also resized or recompressed ones.

        Other crops are not recognised.

        Raises:
            DataError: one of the pictures cannot be read.
        """
        if not pictures:
            return []
        decoded = (decode(data, f"picture {n}") for n, data in enumerate(pictures))
        shown = np.stack([thumbnail(rgb) for rgb in decoded])
        # A block's comparisons fit in BLOCK_BYTES, beside the block itself.
        rows = max(1, BLOCK_BYTES // (4 * len(shown)))
        blocks = range(0, len(self), rows)
        copies = [copies_among(self._thumbnails[i : i + rows], shown) for i in blocks]
        return [int(number) for number in np.flatnonzero(np.concatenate(copies))]

    def _unit_brains(
        self, embeddings: Float[np.ndarray, "brains features"]
    ) -> Float[np.ndarray, "brains features"]:
        features = int(np.prod(self.about.shape))
        if embeddings.shape[1] != features:
            raise InputError(
                f"embeddings: got {embeddings.shape[1]} features, expected {features} as "
                f"{self.folder} has {self.about.shape[0]} tokens of {self.about.shape[1]}"
            )
        length = np.linalg.norm(embeddings.astype(np.float32), axis=1, keepdims=True)
        if len(bad := np.flatnonzero(~np.isfinite(length) | (length == 0))):
            raise InputError(
                f"embeddings: that of brain {bad[0]} has length {length[bad[0], 0]}, expected a "
                "finite one above 0"
            )
        unit: np.ndarray = embeddings.astype(np.float32) / length
        return unit

    def _first_stage(
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
        # Enough that as many are left without those that are barred.
        wanted = candidates + len(barred)
        at_once = max(1, BLOCK_BYTES // (12 * wanted))
        for start in range(0, len(brains), at_once):
            queries = brains[start : start + at_once] @ self._components.T
            for row in search_index(self._index, queries, wanted, nprobe):
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
            self._verify(some, tokens)
            parts.append(unit_tokens(tokens) @ brain)
        return np.concatenate(parts)

    def _verify(
        self, numbers: Int[np.ndarray, " some"], tokens: Float[np.ndarray, "some tokens dim"]
    ) -> None:
        for place in np.flatnonzero(~self._verified[numbers]):
            number = int(numbers[place])
            if tokens_checksum(tokens[place]) != self._checksums[number]:
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
            self._samples[shard] = read_index(self._store, self.about.shards[shard])
        return self._samples[shard][number - int(self._ends[shard])]


def retrieve(
    pool: Pool,
    embeddings: Float[np.ndarray, "brains features"],
    candidates: int = 300,
    nprobe: int = 16,
    excluded: Collection[int] = (),
) -> list[bytes]:
    """Return each brain's nearest picture of the pool (JPEG), to be scored as a reconstruction.

    Raises:
        InputError: the embeddings do not fit, or nothing is found.
        DataError: the pool is damaged.
    """
    numbers, _ = pool.search(embeddings, 1, candidates, nprobe, excluded)
    return pool.pictures(numbers[:, 0].tolist())
