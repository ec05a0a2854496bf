"""Memory of batches that is written over: new memory costs more than what is copied into it."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor


class Buffers:
    """Arrays of one batch by name; a batch that is filled again writes over the one before."""

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
            name: of the array.
            shape: of the batch; a rank may have no row of a small one.
            dtype: of the rows; where one is of another, the higher precision of both.
            put: writes a row by its number into its place, or returns what is to be copied there.
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
