"""Preemption: an event that is set when the machine of a run is about to be taken away."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def sigterm_notice() -> Iterator[threading.Event]:
    """Yield an event that the first SIGTERM sets; a second SIGTERM has its previous effect.

    Signals can only be caught in the main thread; in other threads nothing sets the event.
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
