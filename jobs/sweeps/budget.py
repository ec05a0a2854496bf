"""Time limit of a sweep, over all sessions in its `sweep.json`."""

import json
import time
from pathlib import Path
from typing import Any

from ray.tune import Callback
from ray.tune.experiment import Trial

from jobs.sweeps.options import SWEEP
from jobs.sweeps.records import note_event, read_events
from jobs.sweeps.table import SweepTable

CHECK_SECONDS = 10.0


class BudgetSpentError(Exception):
    """A sweep has used its --hours; --resume may raise them."""


class Budget(Callback):
    """Interrupts a sweep whose hours are spent, so that Tune can resume it.

    Tune's own stopping criteria would end its trials and its search for good.

    Args:
        folder: the sweep's folder.
        table: the live table, which is closed first.
    """

    def __init__(self, folder: Path, table: SweepTable) -> None:
        stored = json.loads((folder / SWEEP).read_text())
        self._hours, self._sessions = stored["options"]["hours"], stored["sessions"]
        self._table = table
        self._last_check = time.monotonic()

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Check the hours every ten seconds.

        Raises:
            BudgetSpentError: the hours are spent.
        """
        if time.monotonic() - self._last_check < CHECK_SECONDS:
            return
        self._last_check = time.monotonic()
        if self._hours and session_seconds(self._sessions) >= self._hours * 3600:
            self._table.on_experiment_end(trials)
            raise BudgetSpentError(
                f"--hours {self._hours:g} are spent; --resume with more continues"
            )


def session_seconds(sessions: list[dict[str, float | None]]) -> float:
    """Return the duration of all sessions in seconds; a session without an end still runs."""
    return sum((each["ended"] or time.time()) - (each["begun"] or 0.0) for each in sessions)


def mark_stopped(trials: Path) -> None:
    """Note the event `stopped` for all trials that still run.

    Args:
        trials: folder of the trials.
    """
    for folder in trials.iterdir():
        events = read_events(folder)
        if events and events[-1]["event"] == "started":
            note_event(folder, "stopped")
