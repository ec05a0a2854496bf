"""Parts of every entry point: one-line errors, absolute paths, and progress on the terminal."""

import logging
import math
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import track

from mindeye_dist.config import ExperimentConfig
from mindeye_dist.errors import UserError
from mindeye_dist.strict import check, override

Item = TypeVar("Item")
PLAIN_SECONDS = 10.0
SCHEME = "models:/"
"""URL scheme of models in MLflow's registry."""
SCORES = ("top1_brain_to_image", "top1_image_to_brain", "latent_correlation")


@contextmanager
def clear_errors() -> Iterator[None]:
    """End the program with one line on a `UserError`; any other exception keeps its trace.

    The environment variable MINDEYE_TRACEBACK=1 keeps the trace of a `UserError`, too.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for library in (
        "botocore",
        "aiobotocore",
    ):  # they log the source of credentials for each client
        logging.getLogger(library).setLevel(logging.WARNING)
    try:
        yield
    except UserError as error:
        if os.environ.get("MINDEYE_TRACEBACK") == "1":
            raise
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted")


def say(message: str) -> None:
    """Print a line about the current work on the terminal; under torchrun, on rank 0 alone."""
    if os.environ.get("RANK", "0") == "0":
        print(message, file=sys.stderr, flush=True)


def with_absolute_paths(config: ExperimentConfig) -> ExperimentConfig:
    """Return the config with absolute paths, so that all workers use the same folders."""
    copy_to, cache = config.checkpoint.copy_to, config.data.disk_cache
    changes = {
        "run_dir": absolute_path(config.run_dir),
        "data.url": absolute_path(config.data.url),
        "checkpoint.copy_to": absolute_path(copy_to) if copy_to else "",
        "data.disk_cache": local_path(cache, "data.disk_cache") if cache else "",
    }
    return override(config, changes)


def absolute_path(path: str) -> str:
    """Return an absolute folder or a URL.

    Relative paths start at MINDEYE_HOME, or else at the working directory; in a Ray job, whose
    working directory is a copy that is thrown away, at ~/mindeye-dist.
    """
    if "://" in path:
        return path
    in_ray_job = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    default = Path.home() / "mindeye-dist" if in_ray_job else Path.cwd()
    return str(Path(os.environ.get("MINDEYE_HOME", default)) / path)


def weights_path(name: str) -> str:
    """Return the absolute path of weights if it exists, else the name, which a hub may know."""
    return (
        absolute_path(name)
        if name and "://" not in name and Path(absolute_path(name)).exists()
        else name
    )


def cache_folder() -> Path:
    """Return the local folder for copies of remote files."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"), "mindeye-dist")


def local_path(path: str, name: str) -> str:
    """Return an absolute folder.

    Raises:
        InputError: the path is a URL, which would become a local folder of that name.
    """
    check("://" not in path, name, path, "a folder, no URL")
    return absolute_path(path)


def watched(items: Iterable[Item], what: str, count: int | None = None) -> Iterator[Item]:
    """Yield items and show progress: a bar on a terminal, else a line every ten seconds.

    `count` is the number of items, needed if they have no length.
    """
    total = len(items) if count is None and isinstance(items, Sized) else count
    if sys.stderr.isatty():
        yield from track(items, what, total, console=Console(stderr=True))
        return
    printed_at = 0.0
    for number, item in enumerate(items):
        if time.monotonic() - printed_at > PLAIN_SECONDS:
            printed_at = time.monotonic()
            print(f"{what}: {number} of {total}", file=sys.stderr, flush=True)
        yield item


def metrics_line(values: dict[str, Any]) -> str:
    """Return the newest metrics of a run as one line."""
    losses = ("contrastive", "prior", "latents")
    named = [f"{n} {values[f'train/{n}']:.4f}" for n in losses if f"train/{n}" in values]
    parts = [
        f"epoch {values['epoch'] + 1}",
        f"step {values['step']}/{values['total_steps']}",
        f"loss {values.get('train/total', math.nan):.3f}",
        f"({', '.join(named)})",
        f"{values['train/samples_per_s']:.0f} samples/s",
        f"data wait {values['train/data_wait_fraction']:.0%}",
    ]
    scores = [f"{n} {values[f'val/{n}']:.3f}" for n in SCORES if f"val/{n}" in values]
    if scores:
        parts.append("val " + ", ".join(scores))
    return "  ".join(parts)


def seconds_left(values: dict[str, Any]) -> float:
    """Return the time left at the rate so far, in seconds."""
    done = max(values["step"] - values["first_step"], 1)
    return (values["total_steps"] - values["step"]) * values["train/wall_s"] / done


class Printer:
    """Report that prints a run's newest metrics every ten seconds, for runs without Ray."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}
        self._printed_at = 0.0

    def __call__(self, row: dict[str, Any]) -> None:
        """Update the metrics and print a line if it is time."""
        self._values |= row
        ended = self._values["step"] == self._values.get("total_steps")
        if "total_steps" in self._values and (
            ended or time.monotonic() - self._printed_at > PLAIN_SECONDS
        ):
            self._printed_at = time.monotonic()
            left = seconds_left(self._values)
            print(f"{metrics_line(self._values)}  {left:.0f} s left", file=sys.stderr, flush=True)
