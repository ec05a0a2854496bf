"""One trial of a sweep: `launch`, as in training, with each validation reported to Ray Tune."""

from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.actor import ActorHandle

from jobs.on_ray.launch import launch, new_board
from jobs.sweeps.records import describe_trial, note_event, read_events
from jobs.sweeps.spaces import trial_config
from mindeye_dist.config import ExperimentConfig
from mindeye_dist.errors import InputError, NonFiniteError
from mindeye_dist.strict import from_dict, override

POLL_SECONDS = 0.3
TRIALS = "trials"
"""Folder of the trials, in the sweep's folder."""


@dataclass(frozen=True)
class Task:
    """Settings that all trials of a sweep share.

    Attributes:
        config: the run that the trials start from, as a dict; its folder is the sweep's.
        parent_run: the sweep's run in MLflow.
    """

    config: dict[str, Any]
    parent_run: str


def run_trial(params: dict[str, Any], task: Task) -> None:
    """Train with Tune's values in the trial's own folder, from its last checkpoint if any.

    Raises:
        Exception: the error that ended the trial. An error of the trial's settings would recur, so
            that a retry raises the noted error at once.
    """
    base = from_dict(ExperimentConfig, task.config)
    folder = Path(base.run_dir) / TRIALS / tune.get_context().get_trial_id()
    errors = [event["error"] for event in read_events(folder) if event["event"] == "failed"]
    if errors:
        raise InputError(errors[-1])
    describe_trial(folder, params, base.training.epochs)
    note_event(folder, "started")
    try:
        config = override(trial_config(base, params), {"run_dir": str(folder)})
        train(config, task.parent_run)
    except (ValueError, NonFiniteError) as error:
        note_event(folder, "failed", str(error))
        raise
    except Exception as error:  # a lost node, a full disk or memory: a retry may succeed
        note_event(folder, "died", str(error) or type(error).__name__)
        raise
    note_event(folder, "ended")


def train(config: ExperimentConfig, parent_run: str) -> None:
    """Launch the trial's workers and report every validation to Tune."""
    board = new_board()
    with ThreadPoolExecutor(1) as pool:
        training: Future[None] = pool.submit(launch, config, board, parent_run)
        while not wait([training], POLL_SECONDS).done:
            report_scores(board)
        training.result()
    report_scores(board)


def report_scores(board: ActorHandle) -> None:
    """Report to Tune the validations since the last call."""
    rows: list[dict[str, Any]] = ray.get(board.read_scores.remote())
    for row in rows:
        tune.report(row)
