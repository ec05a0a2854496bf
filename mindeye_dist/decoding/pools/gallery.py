"""Gallery: the pictures that retrieval chooses from, and how far ahead the best one should be.

A pool on disk (pool.py), or the pictures of a split of the shards, held in memory; both are
searched by the same calls. Leads of the val split tell how often a best picture that is so far
ahead of the second is the right one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int

from mindeye_dist.data.dataset import Dataset
from mindeye_dist.decoding.predictor import Predictor
from mindeye_dist.metrics import similarity
from mindeye_dist.strict import check

NEIGHBOURS = 50
"""Val brains by whose leads the share of right answers at a lead is told."""
AT_ONCE = 16


@runtime_checkable
class Gallery(Protocol):
    """Pictures by number, and the search among them."""

    def __len__(self) -> int: ...

    def search(
        self, embeddings: Float[np.ndarray, "brains features"], k: int
    ) -> tuple[Int[np.ndarray, "brains k"], Float[np.ndarray, "brains k"]]:
        """Return numbers of each brain's nearest pictures, best first, and their cosines."""
        ...

    def pictures(self, numbers: Sequence[int]) -> list[bytes]:
        """Return pictures as JPEG or PNG files."""
        ...


class SplitGallery:
    """The pictures of a split, searched exactly."""

    def __init__(self, dataset: Dataset) -> None:
        tokens = dataset.all_targets("clip_tokens").reshape(len(dataset), -1)
        self._unit = tokens / np.maximum(np.linalg.norm(tokens, axis=1, keepdims=True), 1e-12)
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def search(
        self, embeddings: Float[np.ndarray, "brains features"], k: int
    ) -> tuple[Int[np.ndarray, "brains k"], Float[np.ndarray, "brains k"]]:
        """Return numbers of each brain's nearest pictures, best first, and their cosines.

        Args:
            embeddings: of unit norm, as `Predictor.embed` gives.
            k: pictures for each brain.

        Raises:
            InputError: there are not as many.
        """
        check(1 <= k <= len(self), "k", k, f"1 to the gallery's {len(self)} pictures")
        cosines = embeddings @ self._unit.T
        best = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
        return best, np.take_along_axis(cosines, best, axis=1)

    def pictures(self, numbers: Sequence[int]) -> list[bytes]:
        """Return pictures as JPEG or PNG files."""
        return self._dataset.pictures(numbers)


Search = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]
"""From embeddings and a number of pictures to numbers and cosines, as a gallery's."""


@dataclass(frozen=True)
class Leads:
    """By how much the best picture led the second for each val brain, and whether it was right.

    Attributes:
        values: in rising order (cosine of the best less that of the second).
        right: whether the best picture was the one that was seen.
    """

    values: Float[np.ndarray, " brains"]
    right: Bool[np.ndarray, " brains"]

    def smaller(self, lead: float) -> float:
        """Return the share of val brains with a smaller lead, 0..1."""
        return float(np.searchsorted(self.values, lead) / len(self.values))

    def right_near(self, lead: float) -> float:
        """Return the share of right answers among the val brains with the nearest leads, 0..1."""
        count = min(NEIGHBOURS, len(self.values))
        nearest = np.argsort(np.abs(self.values - lead), kind="stable")[:count]
        return float(self.right[nearest].mean())


def val_leads(predictor: Predictor, val: Dataset, search: Search) -> Leads:
    """Return the leads of the val split's brains, each of whose own picture joins the gallery.

    What a user's brain saw may not be in the gallery at all: a right answer is possible here alone.

    Args:
        predictor: a high-level checkpoint.
        val: its val split, with clip_tokens.
        search: of the gallery, without copies of the val split's pictures.

    Raises:
        InputError: there is but one picture in the gallery.
    """
    embeddings = predictor.embed(val.averages())
    own = val.all_targets("clip_tokens").reshape(len(val), -1)
    cosines = np.array(
        [similarity(e[None], o[None])[0, 0] for e, o in zip(embeddings, own, strict=True)]
    )
    parts = [
        search(embeddings[start : start + AT_ONCE], 2)[1]
        for start in range(0, len(embeddings), AT_ONCE)
    ]
    others = np.concatenate(parts)
    first = np.maximum(cosines, others[:, 0])
    second = np.where(cosines > others[:, 0], others[:, 0], np.maximum(cosines, others[:, 1]))
    values = first - second
    order = np.argsort(values, kind="stable")
    return Leads(values[order], (cosines > others[:, 0])[order])
