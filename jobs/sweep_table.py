"""A sweep on the terminal: one table of what runs and what is best, for any number of trials."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray.tune import Callback
from ray.tune.experiment import Trial
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from jobs.search import EPOCH, SCORE
from mindeye_dist.sweep import note_event, read_events, read_trials

ROWS = 8
CELL, FIXED_WIDTH = 8, 44
"""Characters of a value, and of the columns before the settings."""
PLAIN_SECONDS = 30.0
STATES = {"RUNNING": "running", "TERMINATED": "ended", "ERROR": "failed", "PENDING": "waiting"}


class SweepTable(Callback):
    """Draws the trials as Tune tells of them, and notes in a trial's folder that it was stopped.

    Args:
        folder: of the trials' folders.
        planned: trials in all.
        epochs: of a whole trial.
    """

    def __init__(self, folder: Path, planned: int, epochs: int) -> None:
        self._folder, self._planned, self._epochs = folder, planned, epochs
        self._begun = self._said = 0.0
        self._best: dict[str, tuple[float, int]] = {}
        self._live: Live | None = None  # made in setup: Tune keeps a copy of what is made here

    def setup(self, *arguments: Any, **info: Any) -> None:
        """Start the table, on a terminal."""
        self._begun = self._said = time.monotonic()
        # Those of an earlier session too.
        for trial in read_trials(self._folder):
            if trial.best:
                self._best[trial.name] = (trial.best.score, trial.curve[-1].epoch)
        if sys.stderr.isatty():
            self._live = Live(console=Console(stderr=True), refresh_per_second=2)
            self._live.start()

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Take a trial's newest score."""
        if SCORE in result:
            best = max(self._best.get(trial.trial_id, (-1.0, 0))[0], result[SCORE])
            self._best[trial.trial_id] = (best, result[EPOCH])

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Draw."""
        self._draw(trials)

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Note a trial that has not ended by itself."""
        folder = self._folder / trial.trial_id
        events = read_events(folder)
        if events and events[-1]["event"] == "started":
            note_event(folder, "stopped")
        self._draw(trials, trial)

    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Say that a trial failed."""
        folder = self._folder / trial.trial_id
        errors = [event["error"] for event in read_events(folder) if event["error"]]
        said = errors[-1] if errors else "died; see its folder under ray/"
        console = self._live.console if self._live else Console(stderr=True)
        console.print(f"trial {short(trial.trial_id)} failed: {said}", highlight=False)

    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        """Draw for the last time."""
        self._draw(trials, ended=True)
        if self._live:
            self._live.stop()
            self._live = None

    def _draw(self, trials: list[Trial], trial: Trial | None = None, ended: bool = False) -> None:
        if self._live:
            table = self.table(trials, self._live.console.width)
            self._live.update(Group(Text(self.line(trials)), table))
        elif trial or ended or time.monotonic() - self._said > PLAIN_SECONDS:
            self._said = time.monotonic()
            print(self.line(trials), file=sys.stderr, flush=True)

    def line(self, trials: list[Trial]) -> str:
        """Return where the sweep stands."""
        counts = {said: sum(t.status == s for t in trials) for s, said in STATES.items()}
        parts = [f"{count} {said}" for said, count in counts.items() if count]
        if self._best:
            name, (score, _) = max(self._best.items(), key=lambda item: item[1][0])
            parts.append(f"best {score:.3f} (trial {short(name)})")
        minutes = (time.monotonic() - self._begun) / 60
        return f"{len(trials)} of {self._planned} trials: {', '.join(parts)}, {minutes:.1f} minutes"

    def table(self, trials: list[Trial], width: int) -> Table:
        """Return what runs, then the best of the others: no more than fits a screen."""
        running = [trial for trial in trials if trial.status == "RUNNING"]
        others = [t for t in trials if t.status != "RUNNING" and t.trial_id in self._best]
        others.sort(key=lambda trial: -self._best[trial.trial_id][0])
        paths = list(trials[0].config) if trials else []
        shown = fitting(paths, width - FIXED_WIDTH)
        table = Table("trial", "state", "epochs", "score")
        for path in shown:
            table.add_column(heading(path), justify="right")
        for trial in [*running[:ROWS], *others[:ROWS]]:
            score, epoch = self._best.get(trial.trial_id, (float("nan"), 0))
            table.add_row(
                short(trial.trial_id),
                STATES.get(trial.status, trial.status.lower()),
                f"{epoch}/{self._epochs}",
                f"{score:.3f}",
                *(figure(trial.config[path]) for path in shown),
            )
        hidden = len(running[ROWS:]) + len(others[ROWS:])
        if hidden:
            table.add_row("", f"{hidden} more")
        if len(shown) < len(paths):
            table.caption = f"{len(paths) - len(shown)} settings more on a wider terminal"
        return table


def fitting(paths: Sequence[str], room: int) -> list[str]:
    """Return the first settings whose columns fit into so many characters."""
    shown = []
    for path in paths:
        room -= 3 + max(CELL, *(len(word) for word in heading(path).split()))
        if room < 0:
            break
        shown.append(path)
    return shown


def heading(path: str) -> str:
    """Return a setting's name as words, which a narrow column can break."""
    return path.split(".", 1)[-1].replace(".", " ").replace("_", " ")


def short(trial_id: str) -> str:
    """Return a trial's number, as Tune counts within one start of a sweep."""
    return trial_id.rsplit("_", 1)[-1]


def settings(params: dict[str, Any]) -> str:
    """Return what is tried as one short line."""
    named = {path.split(".", 1)[-1]: value for path, value in params.items()}
    return ", ".join(f"{name} {figure(value)}" for name, value in named.items())


def figure(value: Any) -> str:
    """Return a setting's value, short."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
