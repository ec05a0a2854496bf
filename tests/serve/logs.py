"""Not a test: recording of a service's log."""

import logging
from contextlib import contextmanager

LOGGERS = ("", "uvicorn", "uvicorn.error", "ray.serve.mindeye")
OWN = logging.getLogger("ray.serve.mindeye")


class LogRecorder(logging.Handler):
    """Records log lines as (level, text)."""

    def __init__(self):
        super().__init__()
        self.records = []

    def emit(self, record):
        """Record a line, with its traceback if it has one."""
        self.records.append((record.levelno, self.format(record)))


@contextmanager
def listening(own=logging.DEBUG):
    """Yield a recorder of all loggers' lines; the service's own level is set to `own`."""
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
