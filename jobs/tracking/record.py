"""Record of a run's MLflow entry, kept in the run folder as `tracking.json`.

With it the metrics can be sent during the run, at its end, or afterwards by `jobs/track.py`.
"""

import json
import time
import uuid
from dataclasses import dataclass, replace
from pathlib import Path

from mindeye_dist.config import ExperimentConfig
from mindeye_dist.errors import InputError
from mindeye_dist.runs.checkpoints import Checkpoints
from mindeye_dist.runs.config_changes import CHANGES
from mindeye_dist.runs.folder import TRACKED_RUN, TRACKING
from mindeye_dist.runs.journal import write_atomically
from mindeye_dist.runs.same_run import changed_settings
from mindeye_dist.strict import check, from_dict, from_stored, paths, to_dict

RUNNING = "RUNNING"


@dataclass(frozen=True, kw_only=True)
class Tracking:
    """Facts of a run for MLflow, besides its metrics.

    Attributes:
        config: settings of the run.
        parent: id of the sweep's MLflow run, for a trial; else "".
        mark: tag that finds the MLflow run if the response to its creation was lost.
        started: time of the start, in seconds since 1970.
        ended: time of the end, in seconds since 1970; 0 while the run is training.
        status: MLflow's status; RUNNING during training and after a kill.
    """

    config: ExperimentConfig
    parent: str
    mark: str
    started: float
    ended: float = 0.0
    status: str = RUNNING


def tracking_uri(config: ExperimentConfig) -> str:
    """Return MLflow's URL; by default that of a database beside the run folder."""
    if config.tracking.mlflow != "sqlite":
        return config.tracking.mlflow
    return f"sqlite:///{Path(config.run_dir).resolve().parent / 'mlflow.db'}"


def begin(config: ExperimentConfig, parent: str) -> Tracking:
    """Write the record of a run that begins or resumes, and return it.

    A run without a checkpoint that starts again with other settings becomes another MLflow run.

    Raises:
        DataError: the record cannot be written.
    """
    try:
        then = read_tracking(config.run_dir)
    except ValueError:  # of another version; the MLflow run is known by its id as well
        then = None
    if (
        then
        and not Checkpoints(config.run_dir, 1).folder.exists()
        and changed_settings(paths(then.config), paths(config))
    ):
        (Path(config.run_dir) / TRACKED_RUN).unlink(missing_ok=True)
        then = None
    if then is None:
        now = new_tracking(config, parent, time.time())
    else:
        now = replace(then, config=config, parent=parent or then.parent, ended=0.0, status=RUNNING)
    write_tracking(now)
    return now


def new_tracking(config: ExperimentConfig, parent: str, started: float) -> Tracking:
    """Return the record of a run that MLflow does not know yet."""
    return Tracking(config=config, parent=parent, mark=uuid.uuid4().hex, started=started)


def read_tracking(run_dir: str) -> Tracking | None:
    """Return the record in a run folder, None if there is none.

    Raises:
        InputError: the record cannot be read.
    """
    path = Path(run_dir) / TRACKING
    if not path.exists():
        return None
    try:
        values = json.loads(path.read_text())
        check(isinstance(values, dict), "record", values, "a JSON object")
        config = from_stored(ExperimentConfig, values.get("config", {}), CHANGES, drop=True)
        return from_dict(Tracking, {**values, "config": to_dict(config)})
    except ValueError as error:
        raise InputError(f"{path}: cannot be read: {error}") from error


def write_tracking(tracking: Tracking) -> None:
    """Write the record into the run folder.

    Raises:
        DataError: the record cannot be written.
    """
    write_atomically(
        Path(tracking.config.run_dir) / TRACKING, json.dumps(to_dict(tracking), indent=1)
    )
