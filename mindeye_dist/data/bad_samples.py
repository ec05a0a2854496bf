"""Bad samples that training has skipped, with the reason and the replacement of each."""

from collections.abc import Mapping
from threading import Lock

from mindeye_dist.errors import BadSampleError, DataError


class BadSamples:
    """Bad samples of one rank, noted by the threads that read ahead.

    Args:
        subject: name of the subject.
        limit: maximum number of different bad samples.

    Attributes:
        replaced: the bad sample and its replacement, by step and position in the global batch.
    """

    def __init__(self, subject: str, limit: int) -> None:
        self.replaced: dict[tuple[int, int], tuple[int, int]] = {}
        self._subject, self._limit = subject, limit
        self._found: dict[int, tuple[int, str]] = {}
        self._lock = Lock()

    def note(self, step: int, number: int, error: BadSampleError) -> None:
        """Note a bad sample of a step's batch.

        Raises:
            DataError: there are more bad samples than the limit; lists them all.
        """
        with self._lock:
            first, why = self._found.get(number, (step, str(error)))
            self._found[number] = (min(first, step), why)
            found = {other: why for other, (_, why) in self._found.items()}
        self.check(found)

    def up_to(self, step: int) -> dict[int, str]:
        """Return the message of each bad sample of the batches up to a step, by sample number."""
        with self._lock:
            return {other: why for other, (first, why) in self._found.items() if first <= step}

    def check(self, found: Mapping[int, str]) -> None:
        """Check the number of bad samples.

        Raises:
            DataError: there are more than the limit; lists them all.
        """
        if len(found) > self._limit:
            listed = "; ".join(found[number] for number in sorted(found))
            raise DataError(
                f"{self._subject}: {len(found)} bad samples, data.max_bad_samples is "
                f"{self._limit}: {listed}"
            )
