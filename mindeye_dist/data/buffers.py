"""Memory of batches that is taken again: new memory costs more than what is copied into it."""

import sys
from collections.abc import Iterable
from threading import Lock

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

IDLE = 3
"""References to an array of the list while nobody else has it: the list, a name, and the call."""


class Buffers:
    """Arrays that are given out again once no tensor or view of them is left."""

    def __init__(self) -> None:
        self._arrays: list[np.ndarray] = []
        self._lock = Lock()

    def stack(
        self, rows: Iterable[np.ndarray], count: int, shape: tuple[int, ...]
    ) -> Shaped[Tensor, "batch ..."]:
        """Return rows as a tensor of their precision, the highest where they differ.

        Args:
            rows: one after the other, each copied before the next is asked for.
            count: of the rows; a rank may have none of a small batch.
            shape: of one.
        """
        batch = np.empty((0, *shape), np.float32)
        for number, row in enumerate(rows):
            if number == 0:
                batch = self._take((count, *shape), row.dtype)
            elif row.dtype != batch.dtype:
                batch = batch.astype(np.promote_types(row.dtype, batch.dtype), copy=False)
            batch[number] = row
        return torch.from_numpy(batch)

    def _take(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        with self._lock:
            for array in self._arrays:
                fits = array.shape == shape and array.dtype == dtype
                if fits and sys.getrefcount(array) == IDLE:
                    return array
            array = np.empty(shape, dtype)
            # Of those that are idle none fits: they are of batches of another size.
            self._arrays = [a for a in self._arrays if sys.getrefcount(a) > IDLE]
            self._arrays.append(array)
            return array
