"""Delivery of a run's journal to MLflow, during training or afterwards by jobs/track.py.

MLflow may be slow or down at times: training writes the journal and goes on, while a thread reads
the journal and sends the metrics that MLflow does not have yet. A resumed run continues its MLflow
run.
"""

import fcntl
import hashlib
import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from sqlalchemy.exc import SQLAlchemyError

from jobs.tracking.record import RUNNING, Tracking, tracking_uri
from mindeye_dist.config import ExperimentConfig
from mindeye_dist.errors import DataError
from mindeye_dist.runs.folder import TRACKED_RUN
from mindeye_dist.runs.journal import read_journal_from, write_atomically
from mindeye_dist.strict import paths

log = logging.getLogger(__name__)
CALL_SECONDS = "15"
"""Timeout of a request to a tracking server."""
ROWS = 50
"""Number of journal rows that are sent together."""
METRICS_PER_CALL, PARAMS_PER_CALL = 1000, 100
"""MLflow's own limits of one call."""
MARK, LOCK = "mindeye.run", "tracking.lock"
DELIVERY_ERRORS = (MlflowException, SQLAlchemyError, DataError, OSError, ValueError)
"""Exceptions raised when the tracking server, a proxy or the database fails."""


class Delivery:
    """Sender of a run's journal to MLflow; every method may be called again after an error.

    MLflow's run gets each key of each step once. The journal is read in order, and acknowledged
    rows are not read again. In doubt (MLflow knew the run before, or a call failed and may have
    been carried out all the same), the history of every key is read first, and metrics in it are
    left out. MLflow's client does not repeat calls by itself, which would go unnoticed.

    MLflow cannot delete a metric. A run that resumes at an earlier step takes some steps again,
    with equal losses and other times: MLflow keeps the metrics of the first time.
    """

    def __init__(self, tracking: Tracking, uri: str) -> None:
        if uri.startswith("http"):
            os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", CALL_SECONDS)
        self._tracking = tracking
        self._uri = uri
        self._run_dir = Path(tracking.config.run_dir)
        self._lock: int | None = None
        self._client: MlflowClient | None = None
        self.run_id = ""
        self.sent = 0
        self._offset = 0
        self._in_doubt = True
        self._there: dict[str, set[int]] = {}  # steps that MLflow has, of those still to come
        self._last = -1  # the last of them

    def open(self) -> None:
        """Find the run in MLflow or create it, at the first call.

        Raises:
            BlockingIOError: another process is sending this run.
        """
        if self.run_id:
            return
        self._take_lock()
        self._client = self._client or MlflowClient(self._uri)
        experiment = experiment_id(self._client, self._tracking.config, self._uri)
        run = self._find(experiment)
        self._in_doubt = run is not None
        if run is None:
            run = self._make(experiment)
        run_id = str(run.info.run_id)
        self._describe(run)
        # A sweep registers the run of its own server.
        file = self._run_dir / TRACKED_RUN
        if self._at_home() or not file.exists():
            write_atomically(file, run_id)
        self.run_id = run_id

    def send(self) -> None:
        """Send the rows that the journal has by now; after an error the next call continues."""
        while True:
            rows, offset = read_journal_from(str(self._run_dir), self._offset, ROWS)
            if not rows:
                return
            self._send_rows(rows)
            self._offset = offset

    def end(self, status: str, ended: float) -> None:
        """Set the run's final status; KILLED does not replace a status that is final already."""
        assert self._client is not None  # it is open
        if status == "KILLED" and self._client.get_run(self.run_id).info.status != RUNNING:
            return
        self._client.set_terminated(self.run_id, status=status, end_time=int(ended * 1000))

    def close(self) -> None:
        """Release the lock, so that another process may send the run."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _take_lock(self) -> None:
        if self._lock is not None:
            return
        descriptor = os.open(self._run_dir / LOCK, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise BlockingIOError(f"{self._run_dir}: another process is sending it") from error
        except OSError:  # a file system without locks: the user has to take care
            log.info("mlflow: %s: cannot be locked", self._run_dir)
        self._lock = descriptor

    def _at_home(self) -> bool:
        return self._uri == tracking_uri(self._tracking.config)

    def _find(self, experiment: str) -> Run | None:
        assert self._client is not None
        file = self._run_dir / TRACKED_RUN
        if file.exists():
            try:
                return self._client.get_run(file.read_text().strip())
            except (
                MlflowException
            ) as error:  # the id is of another server, or the server lost its data
                if error.error_code != ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
                    raise
        found = self._client.search_runs(
            [experiment], f"tags.`{MARK}` = '{self._tracking.mark}'", max_results=1
        )
        return found[0] if found else None

    def _make(self, experiment: str) -> Run:
        assert self._client is not None
        tags = {MARK: self._tracking.mark}
        if self._tracking.parent and self._at_home():
            tags[MLFLOW_PARENT_RUN_ID] = self._tracking.parent
        return self._client.create_run(
            experiment,
            start_time=int(self._tracking.started * 1000),
            tags=tags,
            run_name=self._run_dir.absolute().name,
        )

    def _describe(self, run: Run) -> None:
        """Add mark, params and status that an interrupted attempt did not send."""
        assert self._client is not None
        run_id, config = run.info.run_id, self._tracking.config
        if run.data.tags.get(MARK) != self._tracking.mark:
            self._client.set_tag(run_id, MARK, self._tracking.mark)
        known = paths(config) | {"data.subject": pseudonym(config.data.subject)}
        params = [Param(k, str(v)) for k, v in known.items() if k not in run.data.params]
        for part in parts(params, PARAMS_PER_CALL):
            self._client.log_batch(run_id, params=part)
        if self._tracking.status == RUNNING and run.info.status != RUNNING:
            self._client.update_run(run_id, status=RUNNING)

    def _send_rows(self, rows: list[dict[str, Any]]) -> None:
        assert self._client is not None
        if self._in_doubt:
            self._ask(rows[0]["step"])
        metrics = []
        for metric in (metric for row in rows for metric in _metrics(row)):
            steps = self._there.setdefault(metric.key, set())
            if metric.step not in steps:  # a step's two rows, training and validation, share keys
                steps.add(metric.step)
                metrics.append(metric)
        self._in_doubt = True  # until all calls are answered
        for part in parts(metrics, METRICS_PER_CALL):
            self._client.log_batch(self.run_id, metrics=part)
        self._in_doubt = False
        self.sent += len(metrics)
        newest = rows[-1]["step"]
        if newest > self._last:  # all that MLflow had is behind us
            self._there = {k: {newest} for k, steps in self._there.items() if newest in steps}

    def _ask(self, first: int) -> None:
        assert self._client is not None
        there = {}
        for key in self._client.get_run(self.run_id).data.metrics:
            history = self._client.get_metric_history(self.run_id, key)
            there[key] = {metric.step for metric in history if metric.step >= first}
        self._there = there
        self._last = max((max(steps) for steps in there.values() if steps), default=-1)


def parts(values: Sequence[Any], most: int) -> list[Sequence[Any]]:
    """Return a sequence in parts of at most `most` values."""
    return [values[first : first + most] for first in range(0, len(values), most)]


def pseudonym(subject: str) -> str:
    """Return the pseudonym of a subject in MLflow: a digest of the name."""
    return f"subject-{hashlib.sha256(subject.encode()).hexdigest()[:8]}"


def experiment_id(client: MlflowClient, config: ExperimentConfig, uri: str) -> str:
    """Return the id of the config's experiment, created if there is none.

    Artefacts of a local database lie beside it, not in the working directory of the first run.
    """
    name = config.tracking.experiment
    if found := client.get_experiment_by_name(name):
        return str(found.experiment_id)
    local = uri.removeprefix("sqlite:///")
    place = None if local == uri else (Path(local).parent / "mlartifacts").resolve().as_uri()
    try:
        return str(client.create_experiment(name, artifact_location=place))
    except MlflowException:
        if found := client.get_experiment_by_name(name):  # another process created it meanwhile
            return str(found.experiment_id)
        raise


def _metrics(row: dict[str, Any]) -> list[Metric]:
    # One time stamp for the row. NaN is left out; a non-finite loss stops the run anyway.
    stamp = round(row.get("time", 0) * 1000)
    return [
        Metric(key, float(value), stamp, int(row["step"]))
        for key, value in row.items()
        if key not in ("step", "time") and math.isfinite(value)
    ]
