"""When a trial of a sweep, or the sweep itself, has had enough.

What counts is read from the sweep's folder, so that it holds over any number of sessions.
"""

import json
import time
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune import Callback
from ray.tune.experiment import Trial

from jobs.search import EPOCH, SCORE
from jobs.sweep_options import SWEEP
from jobs.sweep_table import SweepTable
from jobs.trial import TRIALS
from mindeye_dist.engine.journal import read_journal
from mindeye_dist.sweep import curve_of, note_event, read_events, read_trials

LOOK_SECONDS = 10.0


class BudgetSpentError(Exception):
    """A sweep has used the hours that it was given; --resume may give it more."""


class Patience(tune.Stopper):
    """Stops trials that no longer improve.

    Args:
        trials: folder of the trials.
        epochs: without a better score; 0 waits for ever.
    """

    def __init__(self, trials: Path, epochs: int) -> None:
        self._trials, self._epochs = trials, epochs

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Return whether a trial has gone long enough without a better score; note it then."""
        if not self._epochs:
            return False
        folder, epoch = self._trials / trial_id, result[EPOCH]
        before = [p for p in curve_of(read_journal(str(folder))) if p.epoch < epoch]
        best = max(before, key=lambda point: point.score, default=None)
        if best is None or result[SCORE] > best.score or epoch - best.epoch < self._epochs:
            return False
        note_event(folder, "settled")
        return True

    def stop_all(self) -> bool:
        """Return that the sweep goes on."""
        return False


class Budget(Callback):
    """Breaks a sweep off when its hours are spent, so that Tune can go on with it as it is.

    Tune's own ways of stopping would end its trials and its search for good.

    Args:
        folder: of the sweep.
        gpus: that a trial takes.
        table: to be closed before.
    """

    def __init__(self, folder: Path, gpus: float, table: SweepTable) -> None:
        self._folder, self._gpus, self._table = folder, gpus, table
        self._looked = 0.0

    def setup(self, *arguments: Any, **info: Any) -> None:
        """Look soon: the clock may be of another machine than the one that kept this."""
        self._looked = time.monotonic()

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Look every ten seconds.

        Raises:
            BudgetSpentError: the hours or the GPU hours are spent.
        """
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        about = json.loads((self._folder / SWEEP).read_text())
        if said := spent(about, self._folder / TRIALS, self._gpus):
            self._table.on_experiment_end(trials)
            raise BudgetSpentError(f"{said} are spent; --resume with more goes on")


def spent(about: dict[str, Any], trials: Path, gpus: float) -> str:
    """Return which budget a sweep has used up, empty where it has not.

    Args:
        about: what its folder says of it: its options and its sessions.
        trials: folder of its trials; they count while they train, up to their last validation.
        gpus: that a trial takes.
    """
    hours, gpu_hours = about["options"]["hours"], about["options"]["gpu_hours"]
    sessions = [(each["ended"] or time.time()) - each["begun"] for each in about["sessions"]]
    if hours and sum(sessions) >= hours * 3600:
        return f"--hours {hours:g}"
    training = sum(trial.seconds for trial in read_trials(trials)) if gpu_hours else 0.0
    if gpu_hours and training * gpus >= gpu_hours * 3600:
        return f"--gpu-hours {gpu_hours:g}"
    return ""


def note_stopped(trials: Path) -> None:
    """Note of all trials that still ran that they were stopped."""
    for folder in trials.iterdir():
        events = read_events(folder)
        if events and events[-1]["event"] == "started":
            note_event(folder, "stopped")
