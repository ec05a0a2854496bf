"""Batch buffers: memory of batches that is used again, as allocation costs more than copying."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor


class Buffers:
    """Arrays of one batch by name; filling an array again overwrites its previous batch."""

    def __init__(self) -> None:
        self._arrays: dict[str, np.ndarray] = {}

    def fill(
        self,
        name: str,
        shape: tuple[int, ...],
        dtype: np.dtype | type[np.floating],
        put: Callable[[int, np.ndarray], np.ndarray | None],
    ) -> Shaped[Tensor, "batch ..."]:
        """Return a batch of rows, each written before the next is asked for.

        Args:
            name: name of the array.
            shape: shape of the batch; a rank may have no row of a small batch.
            dtype: dtype of the rows; a row of another dtype promotes the batch.
            put: writes the row of a number in place, or returns the row to copy.
        """
        batch = self._arrays.get(name)
        if batch is None or batch.shape != shape or batch.dtype != dtype:
            batch = self._arrays[name] = np.empty(shape, dtype)
        for number in range(shape[0]):
            row = put(number, batch[number])
            if row is None:
                continue
            if row.dtype != batch.dtype:
                batch = batch.astype(np.promote_types(row.dtype, batch.dtype), copy=False)
            batch[number] = row
        return torch.from_numpy(batch)
