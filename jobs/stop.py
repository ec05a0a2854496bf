"""When a trial of a sweep, or the sweep itself, has had enough."""

import json
import time
from pathlib import Path
from typing import Any

from ray import tune

from jobs.search import EPOCH, SCORE
from jobs.sweep_options import SWEEP
from jobs.trial import TRIALS
from mindeye_dist.engine.journal import read_journal
from mindeye_dist.sweep import curve_of, note_event, read_trials

LOOK_SECONDS = 10.0


class Stop(tune.Stopper):
    """Stops trials that no longer improve, and the sweep when its budget is spent.

    What counts is read from the sweep's folder, so that it holds over any number of sessions: Tune
    keeps of this object what it was at first.

    Args:
        folder: of the sweep.
        patience: epochs without a better score; 0 waits for ever.
        gpus: that a trial takes.
    """

    def __init__(self, folder: Path, patience: int, gpus: float) -> None:
        self._folder, self._patience, self._gpus = folder, patience, gpus
        self._best: dict[str, tuple[float, int]] = {}
        self._looked = float("-inf")
        self._spent = False

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Return whether a trial has gone long enough without a better score; note it then."""
        if not self._patience:
            return False
        folder, score, epoch = self._folder / TRIALS / trial_id, result[SCORE], result[EPOCH]
        if trial_id not in self._best:
            before = [p for p in curve_of(read_journal(str(folder))) if p.epoch < epoch]
            best = max(before, key=lambda point: point.score, default=None)
            self._best[trial_id] = (best.score, best.epoch) if best else (float("-inf"), epoch)
        if score > self._best[trial_id][0]:
            self._best[trial_id] = (score, epoch)
        if epoch - self._best[trial_id][1] < self._patience:
            return False
        note_event(folder, "settled")
        return True

    def stop_all(self) -> bool:
        """Return whether the hours or the GPU hours are spent."""
        now = time.monotonic()
        if not self._spent and now - self._looked >= LOOK_SECONDS:
            self._looked = now
            about = json.loads((self._folder / SWEEP).read_text())
            self._spent = spent(about, self._folder / TRIALS, self._gpus)
        return self._spent


def spent(about: dict[str, Any], trials: Path, gpus: float) -> bool:
    """Return whether a sweep has used the hours or the GPU hours that it was given.

    Args:
        about: what its folder says of it: its options and its sessions.
        trials: folder of its trials.
        gpus: that a trial takes.
    """
    hours, gpu_hours = about["options"]["hours"], about["options"]["gpu_hours"]
    if hours:
        ends = [(each["ended"] or time.time()) - each["begun"] for each in about["sessions"]]
        if sum(ends) >= hours * 3600:
            return True
    if not gpu_hours:
        return False
    return sum(trial.span for trial in read_trials(trials)) * gpus >= gpu_hours * 3600
