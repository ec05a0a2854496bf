"""A trial of a sweep: the same `launch` as training, told to Tune validation by validation."""

import json
import shutil
import tempfile
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.actor import ActorHandle

from jobs.launch import launch, new_board
from jobs.spaces import trial_config
from mindeye_dist.checkpoint import CONFIG, MANIFEST, Checkpoints, digest, read_place
from mindeye_dist.config import ExperimentConfig
from mindeye_dist.engine.guards import NonFiniteError
from mindeye_dist.engine.journal import JOURNAL
from mindeye_dist.strict import from_dict, override, to_dict
from mindeye_dist.sweep import describe_trial, note_event, read_events

POLL_SECONDS = 0.3
DONOR = "donor.json"
TRIALS = "trials"


@dataclass(frozen=True)
class Task:
    """What all trials of a sweep have in common.

    Attributes:
        config: the run that they start from, as a dict; its folder is the sweep's.
        parent_run: the sweep's run in MLflow.
        hands_over: trials take over each other's checkpoints.
    """

    config: dict[str, Any]
    parent_run: str
    hands_over: bool


def run_trial(params: dict[str, Any], task: Task) -> None:
    """Train with the values that Tune chose, in the trial's own folder, from where it stood.

    Raises:
        Exception: what made the trial fail. An error of its settings would come again: a retry
            raises it at once.
    """
    base = from_dict(ExperimentConfig, task.config)
    folder = Path(base.run_dir) / TRIALS / tune.get_context().get_trial_id()
    failed = [event["error"] for event in read_events(folder) if event["event"] == "failed"]
    if failed:
        raise ValueError(failed[-1])
    describe_trial(folder, params, base.training.epochs)
    note_event(folder, "started")
    try:
        config = override(trial_config(base, params), {"run_dir": str(folder)})
        if task.hands_over:
            take_over(config)
        train(config, task)
    except (ValueError, NonFiniteError) as error:
        note_event(folder, "failed", str(error))
        raise
    except Exception as error:  # a node, a disk, memory: what may be there the next time
        note_event(folder, "died", str(error) or type(error).__name__)
        raise
    note_event(folder, "ended")


def train(config: ExperimentConfig, task: Task) -> None:
    """Launch the trial's workers and report every validation to Tune."""
    board = new_board()
    with ThreadPoolExecutor(1) as pool:
        training: Future[None] = pool.submit(launch, config, board, task.parent_run)
        while not wait([training], POLL_SECONDS).done:
            tell(board, config, task.hands_over)
        training.result()
    tell(board, config, task.hands_over)


def tell(board: ActorHandle, config: ExperimentConfig, hands_over: bool) -> None:
    """Report the validations since the last time."""
    rows: list[dict[str, Any]] = ray.get(board.read_scores.remote())
    for row in rows:
        if not hands_over:
            tune.report(row)
            continue
        with tempfile.TemporaryDirectory() as marker:
            newest = max(Checkpoints(config.run_dir, 1).folder.glob("step-*"), default="")
            Path(marker, DONOR).write_text(json.dumps(str(newest)))
            tune.report(row, checkpoint=tune.Checkpoint.from_directory(marker))


def take_over(config: ExperimentConfig) -> None:
    """Where Tune gave this trial another's checkpoint, go on from a copy of it as from its own.

    What the trial had itself is deleted; its settings from here on are its new ones (Jaderberg et
    al. 2017, population-based training).
    """
    given = tune.get_checkpoint()
    if given is None:
        return
    with given.as_directory() as marker:
        source = Path(json.loads(Path(marker, DONOR).read_text()))
    own, donor = Checkpoints(config.run_dir, 1).folder, source.parents[1]
    if not source.exists():  # whose it was went on for long: from its newest, then
        newest = Checkpoints(str(donor), 1).newest()
        if newest is None:
            return
        source = newest
    if source.parent != own:
        best = source.parent / f"step-{read_place(source).best_step:08d}"
        shutil.rmtree(own, ignore_errors=True)
        for checkpoint in {source, best if best.exists() else source}:
            shutil.copytree(checkpoint, own / checkpoint.name)
        shutil.copy(donor / JOURNAL, Path(config.run_dir) / JOURNAL)
    for later in own.glob("step-*"):
        if later.name > source.name:
            shutil.rmtree(later)
    change_config(own / source.name, config)


def change_config(checkpoint: Path, config: ExperimentConfig) -> None:
    """Let a checkpoint be of another config, as nothing but population-based training may."""
    (checkpoint / CONFIG).write_text(json.dumps(to_dict(config), indent=1))
    digests: Mapping[str, str] = json.loads((checkpoint / MANIFEST).read_text())
    changed = {**digests, CONFIG: digest(checkpoint / CONFIG)}
    (checkpoint / MANIFEST).write_text(json.dumps(changed, indent=1))
