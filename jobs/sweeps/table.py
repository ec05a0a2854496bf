"""Live table of a sweep on the terminal: running trials and the best others, at most a screen."""

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

from jobs.sweeps.records import note_event, read_events, read_trials
from jobs.sweeps.search import EPOCH, SCORE

ROWS = 8
"""Maximum number of running trials, and of others, in the table."""
CELL, FIXED_WIDTH = 8, 44
"""Width of a setting's value, and of all columns before the settings, in characters."""
PLAIN_SECONDS = 30.0
"""Time between two lines without a terminal, in seconds."""
STATES = {"RUNNING": "running", "TERMINATED": "ended", "ERROR": "failed", "PENDING": "waiting"}


class SweepTable(Callback):
    """Draws the trials at each result, and notes the event `stopped` for those that Tune stops.

    Args:
        folder: folder of the trials.
        planned: number of trials of the sweep.
        epochs: epochs of a whole trial.
    """

    def __init__(self, folder: Path, planned: int, epochs: int) -> None:
        self._folder, self._planned, self._epochs = folder, planned, epochs
        self._begun = self._last_line = 0.0
        self._scores: dict[str, tuple[float, int]] = {}  # best score and newest epoch
        self._live: Live | None = None  # made in setup

    def setup(self, *arguments: Any, **info: Any) -> None:
        """Read earlier scores, and start the table if there is a terminal."""
        self._begun = self._last_line = time.monotonic()
        for trial in read_trials(self._folder):  # of an earlier session
            if trial.best_point:
                self._scores[trial.name] = (trial.best_point.score, trial.curve[-1].epoch)
        if sys.stderr.isatty():
            self._live = Live(console=Console(stderr=True), refresh_per_second=2)
            self._live.start()

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Keep a trial's newest score."""
        if SCORE in result:
            score = max(self._scores.get(trial.trial_id, (-1.0, 0))[0], result[SCORE])
            self._scores[trial.trial_id] = (score, result[EPOCH])

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Draw the table."""
        self._draw(trials)

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Note the event `stopped` unless the trial ended by itself."""
        folder = self._folder / trial.trial_id
        events = read_events(folder)
        if events and events[-1]["event"] == "started":
            note_event(folder, "stopped")
        self._draw(trials, trial)

    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Print a failed trial's error."""
        folder = self._folder / trial.trial_id
        errors = [event["error"] for event in read_events(folder) if event["error"]]
        message = errors[-1] if errors else "died; see its folder under ray/"
        console = self._live.console if self._live else Console(stderr=True)
        console.print(f"trial {short_id(trial.trial_id)} failed: {message}", highlight=False)

    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        """Draw the last table and close it."""
        self._draw(trials, ended=True)
        if self._live:
            self._live.stop()
            self._live = None

    def _draw(self, trials: list[Trial], trial: Trial | None = None, ended: bool = False) -> None:
        if self._live:
            table = self.make_table(trials, self._live.console.width)
            self._live.update(Group(Text(self.summary(trials)), table))
        elif trial or ended or time.monotonic() - self._last_line > PLAIN_SECONDS:
            self._last_line = time.monotonic()
            print(self.summary(trials), file=sys.stderr, flush=True)

    def summary(self, trials: list[Trial]) -> str:
        """Return one line with the number of trials in each state and the best score."""
        counts = {word: sum(t.status == s for t in trials) for s, word in STATES.items()}
        parts = [f"{count} {word}" for word, count in counts.items() if count]
        if self._scores:
            name, (score, _) = max(self._scores.items(), key=lambda item: item[1][0])
            parts.append(f"best {score:.3f} (trial {short_id(name)})")
        minutes = (time.monotonic() - self._begun) / 60
        return f"{len(trials)} of {self._planned} trials: {', '.join(parts)}, {minutes:.1f} minutes"

    def make_table(self, trials: list[Trial], width: int) -> Table:
        """Return a table of the running trials, then the best of the others."""
        running = [trial for trial in trials if trial.status == "RUNNING"]
        others = [t for t in trials if t.status != "RUNNING" and t.trial_id in self._scores]
        others.sort(key=lambda trial: -self._scores[trial.trial_id][0])
        paths = list(trials[0].config) if trials else []
        visible = fit_columns(paths, width - FIXED_WIDTH)
        table = Table("trial", "state", "epochs", "score")
        for path in visible:
            table.add_column(heading(path), justify="right")
        for trial in [*running[:ROWS], *others[:ROWS]]:
            score, epoch = self._scores.get(trial.trial_id, (float("nan"), 0))
            table.add_row(
                short_id(trial.trial_id),
                STATES.get(trial.status, trial.status.lower()),
                f"{epoch}/{self._epochs}",
                f"{score:.3f}",
                *(format_value(trial.config[path]) for path in visible),
            )
        hidden = len(running[ROWS:]) + len(others[ROWS:])
        if hidden:
            table.add_row("", f"{hidden} more")
        if len(visible) < len(paths):
            table.caption = f"{len(paths) - len(visible)} more settings on a wider terminal"
        return table


def fit_columns(paths: Sequence[str], room: int) -> list[str]:
    """Return the first settings, as many as have columns that fit into `room` characters."""
    visible = []
    for path in paths:
        room -= 3 + max(CELL, *(len(word) for word in heading(path).split()))
        if room < 0:
            break
        visible.append(path)
    return visible


def heading(path: str) -> str:
    """Return a setting's column heading: words, between which a narrow column can break."""
    return path.split(".", 1)[-1].replace(".", " ").replace("_", " ")


def short_id(trial_id: str) -> str:
    """Return the last part of a trial's name, its number in Tune's search."""
    return trial_id.rsplit("_", 1)[-1]


def format_settings(params: dict[str, Any]) -> str:
    """Format a trial's settings as one short line."""
    named = {path.split(".", 1)[-1]: value for path, value in params.items()}
    return ", ".join(f"{name} {format_value(value)}" for name, value in named.items())


def format_value(value: Any) -> str:
    """Format a setting's value, floats to three digits."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
