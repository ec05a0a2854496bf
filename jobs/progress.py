"""One live line of what a run is doing: workers post rows to a board, the driver draws them."""

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

POLL_SECONDS = 0.5
PLAIN_SECONDS = 10.0


@ray.remote(num_cpus=0)
class Board:
    """Holds the newest values of a run's metrics."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}

    def post(self, row: dict[str, Any]) -> None:
        """Take over a row."""
        self._values |= row

    def read(self) -> dict[str, Any]:
        """Return the newest value of every metric so far."""
        return self._values


@contextmanager
def shown(board: ActorHandle) -> Iterator[None]:
    """Draw the board while the body runs: live on a terminal, else a line every ten seconds."""
    stop = threading.Event()
    draw = _draw_live if sys.stderr.isatty() else _draw_lines
    thread = threading.Thread(target=draw, args=(board, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def line(values: dict[str, Any]) -> str:
    """Return the newest metrics as one readable line."""
    parts = [
        f"epoch {values['epoch'] + 1}",
        f"step {values['step']}/{values['total_steps']}",
        f"loss {values['train/total']:.3f}",
        f"(contrastive {values['train/contrastive']:.3f}, prior {values['train/prior']:.4f})",
        f"{values['train/samples_per_s']:.0f} samples/s",
        f"data wait {values['train/data_wait_fraction']:.0%}",
    ]
    if "val/top1_brain_to_image" in values:
        parts.append(
            f"val top-1 {values['val/top1_brain_to_image']:.0%} brain_to_image, "
            f"{values['val/top1_image_to_brain']:.0%} image_to_brain"
        )
    return "  ".join(parts)


def seconds_left(values: dict[str, Any]) -> float:
    """Return the time that the remaining steps take at the rate so far."""
    done = max(values["step"] - values["first_step"], 1)
    return (values["total_steps"] - values["step"]) * values["train/wall_s"] / done


def _draw_live(board: ActorHandle, stop: threading.Event) -> None:
    columns = (BarColumn(bar_width=20), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=False) as progress:
        task = progress.add_task("starting workers", total=None)
        while not stop.wait(POLL_SECONDS):
            values = _read(board)
            if "total_steps" in values:
                progress.update(
                    task,
                    description=line(values),
                    completed=values["step"],
                    total=values["total_steps"],
                )


def _draw_lines(board: ActorHandle, stop: threading.Event) -> None:
    shown_at, shown_step = 0.0, -1
    while True:
        stopped = stop.wait(POLL_SECONDS)
        values = _read(board)
        new = values.get("step", -1) != shown_step
        if (
            new
            and "total_steps" in values
            and (stopped or time.monotonic() - shown_at > PLAIN_SECONDS)
        ):
            print(f"{line(values)}  {seconds_left(values):.0f} s left", file=sys.stderr, flush=True)
            shown_at, shown_step = time.monotonic(), values["step"]
        if stopped:
            return


def _read(board: ActorHandle) -> dict[str, Any]:
    return cast(dict[str, Any], ray.get(board.read.remote()))
