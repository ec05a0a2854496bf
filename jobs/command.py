"""What entry points share: clear errors, places that outlive a Ray job's copy, the cluster."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray
from ray.train import TrainingFailedError

from mindeye_dist.checkpoint import CheckpointError
from mindeye_dist.config import ExperimentConfig, override
from mindeye_dist.data.store import DataError
from mindeye_dist.engine.trainer import NonFiniteLossError

KNOWN_ERRORS = (DataError, CheckpointError, NonFiniteLossError, ValueError, ImportError)


@contextmanager
def clear_errors() -> Iterator[None]:
    """End the program with one line for errors a user can act on; others keep their trace."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        yield
    except KNOWN_ERRORS as error:
        sys.exit(f"error: {error}")
    except TrainingFailedError as error:
        cause = root_cause(error)
        if cause is None:
            raise
        sys.exit(f"error: {cause}")


def root_cause(error: TrainingFailedError) -> BaseException | None:
    """Return the first error that a user can act on; the other ranks only lost a peer."""
    failures = getattr(error, "worker_failures", {})
    for _, failure in sorted(failures.items()):
        cause = getattr(failure, "_base_exc", failure)
        if isinstance(cause, KNOWN_ERRORS):
            return cause
    return None


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


def connect(config: ExperimentConfig) -> None:
    """Join the Ray cluster that RAY_ADDRESS names, or start one on this machine.

    Raises:
        ValueError: this machine has fewer CPUs or GPUs than the workers ask for.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    named = bool(os.environ.get("RAY_ADDRESS"))
    # Workers report through the board; their own output would tear up the progress line.
    ray.init(address=None if named else "local", log_to_driver=False, logging_level=logging.ERROR)
    if named:
        return
    compute = config.compute
    asked = {"CPU": compute.num_workers * compute.cpus_per_worker}
    if compute.device == "cuda":
        asked["GPU"] = compute.num_workers
    there = ray.cluster_resources()
    for kind, count in asked.items():
        if count > there.get(kind, 0):
            raise ValueError(
                f"compute.num_workers: {compute.num_workers} workers ask for {count:g} {kind}, "
                f"this machine has {there.get(kind, 0):g}; lower it or compute.cpus_per_worker"
            )
