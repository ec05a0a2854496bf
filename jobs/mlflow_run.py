"""MLflow, fed from rank 0 in a thread of its own: a slow or dead server costs no step.

What could not be delivered is said once, and stays in the run's journal. A resumed run goes on with
the MLflow run that it began.
"""

import hashlib
import logging
import math
import queue
import threading
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from mindeye_dist.config import ExperimentConfig
from mindeye_dist.engine.journal import TRACKED_RUN
from mindeye_dist.strict import paths

log = logging.getLogger(__name__)
FLUSH_SECONDS = 20.0


class Tracker:
    """Sends rows of metrics to MLflow."""

    def __init__(self, config: ExperimentConfig, uri: str, parent: str = "") -> None:
        self._config = config
        self._uri = uri
        self._tags = {MLFLOW_PARENT_RUN_ID: parent} if parent else {}
        self._rows: queue.Queue[dict[str, Any] | str] = queue.Queue()
        self._thread = threading.Thread(target=self._send, name="mlflow", daemon=True)
        self._thread.start()

    def __call__(self, metrics: dict[str, Any]) -> None:
        """Queue one row of metrics; it must have a `step`."""
        self._rows.put(metrics)

    def close(self, status: str) -> None:
        """Send what is queued, and how the run ended, for a bounded time."""
        self._rows.put(status)
        self._thread.join(FLUSH_SECONDS)
        if self._thread.is_alive():
            log.warning("mlflow: %s did not take all metrics; the journal has them", self._uri)

    def _send(self) -> None:
        try:
            client = MlflowClient(self._uri)
            run_id = self._start(client)
            while not isinstance(row := self._rows.get(), str):
                client.log_batch(run_id, metrics=_metrics(row))
            client.set_terminated(run_id, status=row)
        except (MlflowException, OSError) as error:
            log.warning("mlflow: %s: %s; metrics stay in the journal", self._uri, error)

    def _start(self, client: MlflowClient) -> str:
        file = Path(self._config.run_dir) / TRACKED_RUN
        if file.exists():
            run_id = file.read_text()
            client.update_run(run_id, status="RUNNING")
            return run_id
        experiment = experiment_id(client, self._config, self._uri)
        name = Path(self._config.run_dir).name
        run = client.create_run(experiment, run_name=name, tags=self._tags)
        known = paths(self._config) | {"data.subject": pseudonym(self._config.data.subject)}
        params = [Param(path, str(value)) for path, value in known.items()]
        client.log_batch(run.info.run_id, params=params)
        run_id = str(run.info.run_id)
        file.write_text(run_id)
        return run_id


def pseudonym(subject: str) -> str:
    """Return what a person is called where others may read it: the same always, but no name."""
    return f"subject-{hashlib.sha256(subject.encode()).hexdigest()[:8]}"


def experiment_id(client: MlflowClient, config: ExperimentConfig, uri: str) -> str:
    """Return the id of the config's experiment, which is made where there is none.

    Artefacts of a local data base lie beside it, not in the working directory of whoever was first.
    """
    name = config.tracking.experiment
    if found := client.get_experiment_by_name(name):
        return str(found.experiment_id)
    local = uri.removeprefix("sqlite:///")
    place = None if local == uri else (Path(local).parent / "mlartifacts").resolve().as_uri()
    try:
        return str(client.create_experiment(name, artifact_location=place))
    except MlflowException:
        if found := client.get_experiment_by_name(name):  # somebody else was first
            return str(found.experiment_id)
        raise


def _metrics(row: dict[str, Any]) -> list[Metric]:
    # One time stamp for the row; NaN is no metric of ours, a non-finite loss stops the run.
    stamp = int(row.get("time", 0) * 1000)
    return [
        Metric(key, float(value), stamp, int(row["step"]))
        for key, value in row.items()
        if key not in ("step", "time") and math.isfinite(value)
    ]
