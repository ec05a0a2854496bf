"""Memory cache: arrays that are slow to read, each fetched once and kept up to a limit.

Batches are read ahead by many threads, which request the same samples at the border of two epochs.
"""

from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from threading import Lock
from typing import TypeVar

import numpy as np

from mindeye_dist.errors import BadSampleError

Key = TypeVar("Key", bound=Hashable)


class MemoryCache:
    """Cache of arrays in memory, shared by threads; an array in flight is fetched once.

    Args:
        max_bytes: memory limit; arrays beyond it are fetched again at each request.
    """

    def __init__(self, max_bytes: int) -> None:
        self._left = max_bytes
        self._held: dict[Hashable, Future[np.ndarray]] = {}
        self._lock = Lock()

    def get(
        self, keys: Sequence[Key], fetch: Callable[[list[Key]], list[np.ndarray]]
    ) -> list[np.ndarray]:
        """Return arrays by key; `fetch` gets the keys that are neither cached nor in flight.

        Raises:
            Exception: the exception of `fetch`, also for other threads that wait for these keys.
        """
        with self._lock:
            missing = [key for key in dict.fromkeys(keys) if key not in self._held]
            held = {key: self._held.setdefault(key, Future()) for key in keys}
        if missing:
            self._fill({key: held[key] for key in missing}, fetch)
        return [held[key].result() for key in keys]

    def _fill(
        self,
        missing: dict[Key, Future[np.ndarray]],
        fetch: Callable[[list[Key]], list[np.ndarray]],
    ) -> None:
        try:
            arrays = fetch(list(missing))
        except BadSampleError as error:
            if len(missing) == 1:
                self._fail(missing, error)
                raise
            # One by one, so that threads that wait for the good ones get them.
            left = dict(missing)
            for key, future in missing.items():
                del left[key]
                try:
                    self._fill({key: future}, fetch)
                except BadSampleError:
                    continue
                except Exception as error:
                    self._fail(left, error)
                    raise
            return
        except Exception as error:
            self._fail(missing, error)
            raise
        with self._lock:
            for (key, future), array in zip(missing.items(), arrays, strict=True):
                future.set_result(array)
                if array.nbytes <= self._left:
                    self._left -= array.nbytes
                else:
                    del self._held[key]

    def _fail(self, missing: dict[Key, Future[np.ndarray]], error: Exception) -> None:
        with self._lock:
            for key, future in missing.items():
                del self._held[key]
                future.set_exception(error)
