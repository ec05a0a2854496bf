"""Board: an actor to which workers post metrics and messages, and which the driver shows live.

It also carries the notice to end from the driver to the workers, and preemption back.
"""

import logging
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import ray
from ray.actor import ActorHandle
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from jobs.command import PLAIN_SECONDS, metrics_line, seconds_left

POLL_SECONDS = 0.5


@ray.remote(num_cpus=0)
class Board:
    """Newest metrics of a run, messages, scores, and the notice to end."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}
        self._messages: list[str] = []
        self._scores: list[dict[str, Any]] = []
        self._stopping = False
        self._preempted = ""

    def stop(self) -> None:
        """Note that the run is to end."""
        self._stopping = True

    def stopping(self) -> bool:
        """Return whether the run is to end."""
        return self._stopping

    def preempt(self, message: str) -> None:
        """Note that the workers have ended on notice."""
        self._preempted = message

    def read_preempted(self) -> str:
        """Return the message of workers that ended on notice since the last call, if any."""
        message, self._preempted = self._preempted, ""
        return message

    def post(self, row: dict[str, Any]) -> None:
        """Add a row of metrics."""
        self._values |= row

    def say(self, message: str) -> None:
        """Add a message to show."""
        self._messages.append(message)

    def score(self, row: dict[str, Any]) -> None:
        """Add a validation's number of finished epochs and score."""
        self._scores.append(row)

    def read_scores(self) -> list[dict[str, Any]]:
        """Return the scores added since the last call."""
        scores, self._scores = self._scores, []
        return scores

    def read(self) -> tuple[dict[str, Any], list[str]]:
        """Return the newest value of every metric so far, and the messages since the last call."""
        messages, self._messages = self._messages, []
        return self._values, messages


class BoardHandler(logging.Handler):
    """Logging handler that posts a worker's warnings, and its lines of progress, to the board."""

    def __init__(self, board: ActorHandle) -> None:
        super().__init__(logging.INFO)
        self._board = board

    def emit(self, record: logging.LogRecord) -> None:
        """Post a warning if it comes from this project, an info if it comes from the worker."""
        own = record.name.startswith(("jobs.", "mindeye_dist."))
        if (own and record.levelno >= logging.WARNING) or record.name == "jobs.worker":
            self._board.say.remote(self.format(record))


@contextmanager
def shown_progress(board: ActorHandle) -> Iterator[None]:
    """Show the board while the body runs: live on a terminal, else a line every ten seconds."""
    stop = threading.Event()
    draw = _draw_live if sys.stderr.isatty() else _draw_lines
    thread = threading.Thread(target=draw, args=(board, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _draw_live(board: ActorHandle, stop: threading.Event) -> None:
    columns = (BarColumn(bar_width=20), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("starting workers", total=None)
        stopped = False
        while not stopped:
            stopped = stop.wait(POLL_SECONDS)
            values, messages = _read(board)
            for message in messages:
                progress.console.print(message)
            if "total_steps" in values:
                done, total = values["step"], values["total_steps"]
                progress.update(task, description=metrics_line(values), completed=done, total=total)


def _draw_lines(board: ActorHandle, stop: threading.Event) -> None:
    shown_at, shown_step, stopped = 0.0, -1, False
    while not stopped:
        stopped = stop.wait(POLL_SECONDS)
        values, messages = _read(board)
        for message in messages:
            print(message, file=sys.stderr, flush=True)
        if "total_steps" not in values or values["step"] == shown_step:
            continue
        if stopped or time.monotonic() - shown_at > PLAIN_SECONDS:
            print(
                f"{metrics_line(values)}  {seconds_left(values):.0f} s left",
                file=sys.stderr,
                flush=True,
            )
            shown_at, shown_step = time.monotonic(), values["step"]


def _read(board: ActorHandle) -> tuple[dict[str, Any], list[str]]:
    return cast(tuple[dict[str, Any], list[str]], ray.get(board.read.remote()))
