"""Files of this machine that are kept open: opening one takes as long as reading a small member."""

import os
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

MOST = 64


class OpenFiles:
    """Reads from files as they were when they were first opened; pickled, it has none open."""

    def __init__(self) -> None:
        self._open = lru_cache(maxsize=MOST)(_File)

    def __reduce__(self) -> tuple[type["OpenFiles"], tuple[()]]:
        return OpenFiles, ()

    def read_into(self, path: str, start: int, places: Sequence[Any]) -> int:
        """Read a file from a byte on into memory; return how many bytes there are.

        Raises:
            OSError: it cannot be read.
        """
        file = self._open(path)  # held: nobody else may have it, and without it its number is void
        return os.preadv(file.number, places, start)

    def forget(self) -> None:
        """Open all of them anew when they are read again."""
        self._open.cache_clear()


class _File:
    """An open file, closed when nobody holds it any more."""

    def __init__(self, path: str) -> None:
        self.number = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)
