"""Not a test: what a service logs."""

import logging
from contextlib import contextmanager

LOGGERS = ("", "uvicorn", "uvicorn.error", "ray.serve.mindeye")
OWN = logging.getLogger("ray.serve.mindeye")


class LogRecorder(logging.Handler):
    """Keeps what is logged: level and text."""

    def __init__(self):
        super().__init__()
        self.records = []

    def emit(self, record):
        """Keep a record, with its trace where it has one."""
        self.records.append((record.levelno, self.format(record)))


@contextmanager
def listening(own=logging.DEBUG):
    """Yield what is logged meanwhile by anybody at his own level, by the service at `own`."""
    recorder, level = LogRecorder(), OWN.level
    OWN.setLevel(own)
    for name in LOGGERS:
        logging.getLogger(name).addHandler(recorder)
    try:
        yield recorder
    finally:
        OWN.setLevel(level)
        for name in LOGGERS:
            logging.getLogger(name).removeHandler(recorder)
