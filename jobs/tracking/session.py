"""Session: a training whose metrics are sent to MLflow while it runs."""

from collections.abc import Iterator
from contextlib import contextmanager

from jobs.tracking.record import begin, tracking_uri
from mindeye_dist.config import ExperimentConfig
from mindeye_dist.errors import PreemptedError
from mindeye_dist.runs.journal import Report


@contextmanager
def tracked(config: ExperimentConfig, parent: str = "") -> Iterator[list[Report]]:
    """Yield the reports that send metrics to MLflow; none if tracking is off.

    Args:
        config: settings of the run.
        parent: id of the sweep's MLflow run, for a trial.
    """
    if config.tracking.mlflow == "off":
        yield []
        return
    from jobs.tracking.mlflow_delivery import Tracker  # MLflow takes seconds to import

    tracker = Tracker(begin(config, parent), tracking_uri(config))
    status = "FAILED"
    try:
        yield [tracker]
        status = "FINISHED"
    except PreemptedError:
        status = "KILLED"  # it goes on elsewhere or later
        raise
    finally:
        tracker.close(status)
