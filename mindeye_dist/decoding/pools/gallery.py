"""Gallery: the pictures that retrieval chooses from, and how reliable its choice is.

A gallery is a pool on disk (faiss_pool.py) or one split of the shards, with the same methods. The
lead is the cosine of the best picture less that of the second; the leads of the val split show how
often the best picture is the right one at a given lead.
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
"""Number of val brains, with the nearest leads, that the accuracy at a lead is taken from."""
SEARCH_BATCH = 16


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
            embeddings: unit-norm output of `Predictor.embed`.
            k: number of pictures per brain.

        Raises:
            InputError: k is not between 1 and the number of pictures.
        """
        check(1 <= k <= len(self), "k", k, f"1 to the gallery's {len(self)} pictures")
        cosines = embeddings @ self._unit.T
        best = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
        return best, np.take_along_axis(cosines, best, axis=1)

    def pictures(self, numbers: Sequence[int]) -> list[bytes]:
        """Return pictures as JPEG or PNG files."""
        return self._dataset.pictures(numbers)


Search = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]
"""A gallery's `search`: embeddings and k -> numbers and cosines of the k nearest pictures."""


@dataclass(frozen=True)
class Leads:
    """Lead of each val brain, and whether its best picture was the seen one.

    Attributes:
        values: cosine of the best picture less that of the second, in ascending order.
        right: True where the best picture was the seen one.
    """

    values: Float[np.ndarray, " brains"]
    right: Bool[np.ndarray, " brains"]

    def fraction_below(self, lead: float) -> float:
        """Return the fraction of val brains with a smaller lead (0..1)."""
        return float(np.searchsorted(self.values, lead) / len(self.values))

    def accuracy_near(self, lead: float) -> float:
        """Return the top-1 accuracy (0..1) of the val brains with the nearest leads."""
        count = min(NEIGHBOURS, len(self.values))
        nearest = np.argsort(np.abs(self.values - lead), kind="stable")[:count]
        return float(self.right[nearest].mean())


def val_leads(predictor: Predictor, val: Dataset, search: Search) -> Leads:
    """Return the leads of the val split, each brain's own picture being added to the gallery.

    The picture that a user's brain saw need not be in the gallery; here it always is, so that every
    brain has a right answer.

    Args:
        predictor: high-level checkpoint.
        val: its val split, with clip_tokens.
        search: search of the gallery, without copies of the val split's pictures.

    Raises:
        InputError: the gallery has only one picture.
    """
    embeddings = predictor.embed(val.averages())
    own = val.all_targets("clip_tokens").reshape(len(val), -1)
    cosines = np.array(
        [similarity(e[None], o[None])[0, 0] for e, o in zip(embeddings, own, strict=True)]
    )
    parts = [
        search(embeddings[start : start + SEARCH_BATCH], 2)[1]
        for start in range(0, len(embeddings), SEARCH_BATCH)
    ]
    others = np.concatenate(parts)
    first = np.maximum(cosines, others[:, 0])
    second = np.where(cosines > others[:, 0], others[:, 0], np.maximum(cosines, others[:, 1]))
    values = first - second
    order = np.argsort(values, kind="stable")
    return Leads(values[order], (cosines > others[:, 0])[order])
