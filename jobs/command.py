"""What entry points share: clear errors, and places that outlive a Ray job's copy."""

import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import track

from mindeye_dist.checkpoint import CheckpointError
from mindeye_dist.config import ExperimentConfig, override
from mindeye_dist.data.store import DataError
from mindeye_dist.engine.trainer import NonFiniteLossError

Item = TypeVar("Item")
PLAIN_SECONDS = 10.0
KNOWN_ERRORS = (DataError, CheckpointError, NonFiniteLossError, ValueError, ImportError)


@contextmanager
def clear_errors() -> Iterator[None]:
    """End the program with one line for errors a user can act on; others keep their trace."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        yield
    except KNOWN_ERRORS as error:
        sys.exit(f"error: {error}")


def settle(config: ExperimentConfig) -> ExperimentConfig:
    """Return the config with absolute folders, so that every worker means the same place."""
    return override(config, {"run_dir": place(config.run_dir), "data.url": place(config.data.url)})


def place(path: str) -> str:
    """Return an absolute folder or a URL.

    Relative paths start at MINDEYE_HOME, or else at the working directory; in a Ray job, whose
    working directory is a copy that is thrown away, at ~/mindeye-dist.
    """
    if "://" in path:
        return path
    in_ray_job = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    default = Path.home() / "mindeye-dist" if in_ray_job else Path.cwd()
    return str(Path(os.environ.get("MINDEYE_HOME", default)) / path)


def watched(items: Sequence[Item], what: str) -> Iterator[Item]:
    """Yield items with a progress bar on a terminal, else with a line every ten seconds."""
    if sys.stderr.isatty():
        yield from track(items, what, console=Console(stderr=True))
        return
    said = 0.0
    for number, item in enumerate(items):
        if time.monotonic() - said > PLAIN_SECONDS:
            said = time.monotonic()
            print(f"{what}: {number} of {len(items)}", file=sys.stderr, flush=True)
        yield item
