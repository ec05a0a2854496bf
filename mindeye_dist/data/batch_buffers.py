"""Memory of batches that is taken again: new memory costs more than what is copied into it."""

import sys
from collections.abc import Callable
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

    def fill(
        self,
        shape: tuple[int, ...],
        dtype: np.dtype | type[np.floating],
        put: Callable[[int, np.ndarray], np.ndarray | None],
    ) -> Shaped[Tensor, "batch ..."]:
        """Return a batch of rows, each written before the next is asked for.

        Args:
            shape: of the batch; a rank may have no row of a small one.
            dtype: of the rows; where one is of another, the higher precision of both.
            put: writes a row by its number into its place, or returns what is to be copied there.
        """
        batch = self._take(shape, np.dtype(dtype))
        for number in range(shape[0]):
            row = put(number, batch[number])
            if row is None:
                continue
            if row.dtype != batch.dtype:
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
