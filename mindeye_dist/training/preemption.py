"""Notice that a run's machine is about to be taken away: an event, set by SIGTERM or by others."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class PreemptedError(Exception):
    """A run has ended on notice, with a checkpoint of the step that it had reached."""


@contextmanager
def sigterm_notice() -> Iterator[threading.Event]:
    """Yield an event that the first SIGTERM sets; the second one does what it did before.

    Signals can only be caught in a process's main thread; elsewhere nothing sets it.
    """
    notice = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield notice
        return
    before = signal.getsignal(signal.SIGTERM) or signal.SIG_DFL

    def take(*_: Any) -> None:
        signal.signal(signal.SIGTERM, before)
        notice.set()

    signal.signal(signal.SIGTERM, take)
    try:
        yield notice
    finally:
        signal.signal(signal.SIGTERM, before)
