"""Whether a run is tracked in MLflow, and where; jobs/mlflow_run.py does it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mindeye_dist.config import ExperimentConfig
from mindeye_dist.engine.trainer import Report


@contextmanager
def tracked(config: ExperimentConfig, parent: str = "") -> Iterator[list[Report]]:
    """Give the reports that send metrics to MLflow, none where tracking is off.

    Args:
        config: the run.
        parent: the MLflow run of the sweep that it is a trial of.
    """
    if config.tracking.mlflow == "off":
        yield []
        return
    from jobs.mlflow_run import Tracker  # MLflow takes seconds to import

    tracker = Tracker(config, tracking_uri(config), parent)
    finished = False
    try:
        yield [tracker]
        finished = True
    finally:
        tracker.close("FINISHED" if finished else "FAILED")


def tracking_uri(config: ExperimentConfig) -> str:
    """Return MLflow's URL: a data base beside the run folder by default."""
    if config.tracking.mlflow != "sqlite":
        return config.tracking.mlflow
    return f"sqlite:///{Path(config.run_dir).resolve().parent / 'mlflow.db'}"
