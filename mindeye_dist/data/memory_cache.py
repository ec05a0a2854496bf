"""Arrays that are slow to get: each is fetched once by whoever asks first, and kept up to a limit.

Batches are read ahead by many threads, which want the same samples where an epoch ends and the next
begins.
"""

from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from threading import Lock
from typing import TypeVar

import numpy as np

from mindeye_dist.errors import BadSampleError

Key = TypeVar("Key", bound=Hashable)


class ReadOnce:
    """What is in memory or on its way there.

    Args:
        max_bytes: that stay in memory; what does not fit is fetched again when it is asked for.
    """

    def __init__(self, max_bytes: int) -> None:
        self._left = max_bytes
        self._held: dict[Hashable, Future[np.ndarray]] = {}
        self._lock = Lock()

    def get(
        self, keys: Sequence[Key], fetch: Callable[[list[Key]], list[np.ndarray]]
    ) -> list[np.ndarray]:
        """Return arrays by key; `fetch` is called with those that nobody has or waits for.

        Raises:
            Exception: what `fetch` raised; those who wait for the same keys get it, too.
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
            # One by one, so that those who wait for the others get them.
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
