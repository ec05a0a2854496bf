"""Record of a run's MLflow entry, kept in the run folder as `tracking.json`.

With it the metrics can be sent during the run, at its end, or afterwards by `jobs/track.py`.
"""

import json
import time
import uuid
from dataclasses import dataclass, replace
from pathlib import Path

from mindeye_dist.config import ExperimentConfig
from mindeye_dist.runs.checkpoints import Checkpoints
from mindeye_dist.runs.folder import TRACKED_RUN, TRACKING
from mindeye_dist.runs.journal import write_atomically
from mindeye_dist.runs.same_run import changed_settings
from mindeye_dist.strict import from_dict, paths, to_dict

RUNNING = "RUNNING"


@dataclass(frozen=True, kw_only=True)
class Tracking:
    """What MLflow is to know of a run beside its metrics.

    Attributes:
        config: the run.
        parent: the MLflow run of the sweep that it is a trial of, or nothing.
        mark: by which its run is found in MLflow where the answer to its making was lost.
        started: in seconds since 1970.
        ended: 0 while it runs.
        status: how it ended, in MLflow's words; RUNNING until then, and after a kill.
    """

    config: ExperimentConfig
    parent: str
    mark: str
    started: float
    ended: float = 0.0
    status: str = RUNNING


def tracking_uri(config: ExperimentConfig) -> str:
    """Return MLflow's URL: a data base beside the run folder by default."""
    if config.tracking.mlflow != "sqlite":
        return config.tracking.mlflow
    return f"sqlite:///{Path(config.run_dir).resolve().parent / 'mlflow.db'}"


def begin(config: ExperimentConfig, parent: str) -> Tracking:
    """Note in the run folder that the run begins or goes on, and return what is noted.

    A run that left no checkpoint and comes again with other settings is another run in MLflow.

    Raises:
        DataError: it cannot be written.
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
    """Return what MLflow is to know of a run of which it has heard nothing yet."""
    return Tracking(config=config, parent=parent, mark=uuid.uuid4().hex, started=started)


def read_tracking(run_dir: str) -> Tracking | None:
    """Return what is noted in a run folder, if anything.

    Raises:
        InputError: it cannot be read.
    """
    path = Path(run_dir) / TRACKING
    if not path.exists():
        return None
    return from_dict(Tracking, json.loads(path.read_text()))


def write_tracking(tracking: Tracking) -> None:
    """Note it in the run folder.

    Raises:
        DataError: it cannot be written.
    """
    write_atomically(
        Path(tracking.config.run_dir) / TRACKING, json.dumps(to_dict(tracking), indent=1)
    )
