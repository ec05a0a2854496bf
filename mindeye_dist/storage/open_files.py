"""Open files of a local folder: opening a file takes as long as reading a small member."""

import os
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

MOST = 64


class OpenFiles:
    """Reader of files as they were when first opened; a pickled copy starts with none open."""

    def __init__(self) -> None:
        self._open = lru_cache(maxsize=MOST)(_File)

    def __reduce__(self) -> tuple[type["OpenFiles"], tuple[()]]:
        return OpenFiles, ()

    def read_into(self, path: str, start: int, places: Sequence[Any]) -> int:
        """Read a file from byte `start` on into memory; return the number of bytes read.

        Raises:
            OSError: the file cannot be read.
        """
        file = self._open(path)  # keep a reference: without one, the descriptor is closed
        return os.preadv(file.number, places, start)

    def forget(self) -> None:
        """Forget all files, so that the next read opens them anew."""
        self._open.cache_clear()


class _File:
    """An open file, closed with its last reference."""

    def __init__(self, path: str) -> None:
        self.number = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)
