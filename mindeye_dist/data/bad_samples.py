"""Bad samples that training has met and passed over: which, why, and who took their place."""

from collections.abc import Mapping
from threading import Lock

from mindeye_dist.errors import BadSampleError, DataError


class BadSamples:
    """The bad samples of one rank; batches that are read ahead may tell it of them at once.

    Args:
        subject: whose samples they are.
        limit: different ones that may be passed over.

    Attributes:
        replaced: by step and position in the global batch, the sample that ought to stand there and
            the one that does.
    """

    def __init__(self, subject: str, limit: int) -> None:
        self.replaced: dict[tuple[int, int], tuple[int, int]] = {}
        self._subject, self._limit = subject, limit
        self._found: dict[int, tuple[int, str]] = {}
        self._lock = Lock()

    def note(self, step: int, number: int, error: BadSampleError) -> None:
        """Take down a bad sample that a step wanted.

        Raises:
            DataError: it is one more than may be passed over; lists them all.
        """
        with self._lock:
            first, why = self._found.get(number, (step, str(error)))
            self._found[number] = (min(first, step), why)
            found = {other: why for other, (_, why) in self._found.items()}
        self.check(found)

    def up_to(self, step: int) -> dict[int, str]:
        """Return the bad samples that steps up to this one wanted, and why they are bad."""
        with self._lock:
            return {other: why for other, (first, why) in self._found.items() if first <= step}

    def check(self, found: Mapping[int, str]) -> None:
        """See that there are no more bad samples than may be passed over.

        Raises:
            DataError: there are; lists them all.
        """
        if len(found) > self._limit:
            listed = "; ".join(found[number] for number in sorted(found))
            raise DataError(
                f"{self._subject}: {len(found)} bad samples, data.max_bad_samples is "
                f"{self._limit}: {listed}"
            )
