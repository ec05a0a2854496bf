"""Parallel map: apply a callable to numbered items, on Ray Data actors or in this process."""

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from jobs.command import watched
from jobs.options.workers import Workers
from mindeye_dist.errors import DataError, InputError, UserError

ItemTask = Callable[[int], dict[str, Any]]
"""Handles the item with a given number and returns a JSON answer."""


class OnRay:
    """Adapts a task to the rows of Ray Data; an error that a user can act on becomes a row, too."""

    def __init__(self, task: Callable[..., ItemTask], arguments: Sequence[Any]) -> None:
        self._error = ""
        try:
            self._task = task(*arguments)
        except UserError as error:
            self._error = str(error)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Handle the row's item."""
        number = int(row["item"])
        if self._error:
            return {"number": number, "answer": "", "error": self._error}
        try:
            answer = json.dumps(self._task(number))
        except UserError as error:
            return {"number": number, "answer": "", "error": str(error)}
        return {"number": number, "answer": answer, "error": ""}


def map_items(
    workers: Workers,
    task: Callable[..., ItemTask],
    arguments: Sequence[Any],
    sizes: Sequence[int],
    what: str,
) -> list[dict[str, Any]]:
    """Return a task's answers for the items 0, 1, ... in order.

    Args:
        workers: number and kind of workers.
        task: class or function that makes the task from `arguments`, once in each worker.
        arguments: arguments of `task`.
        sizes: weight of each item in the progress shown, at least 1.
        what: name of the work in the progress shown.

    Raises:
        DataError: a worker failed on an item.
    """
    if workers.without_ray:
        here = task(*arguments)
        made: Iterator[tuple[int, Any]] = ((n, here(n)) for n in range(len(sizes)))
    else:
        made = _on_ray(workers, task, arguments, len(sizes), what)
    counted = (item for item in made for _ in range(sizes[item[0]]))
    answers = dict(watched(counted, what, sum(sizes)))
    return [answers[number] for number in range(len(sizes))]


def _on_ray(
    workers: Workers,
    task: Callable[..., ItemTask],
    arguments: Sequence[Any],
    count: int,
    what: str,
) -> Iterator[tuple[int, dict[str, Any]]]:
    import ray.data

    from jobs.on_ray.prometheus import TRAINING, Meters

    meters = Meters(TRAINING)
    rows = ray.data.from_items(list(range(count)), override_num_blocks=count).map(
        OnRay,  # type: ignore[arg-type]
        fn_constructor_args=(task, arguments),
        compute=ray.data.ActorPoolStrategy(size=min(workers.count, count)),
        num_gpus=1 if workers.gpu else None,
    )
    for row in rows.iter_rows():
        if row["error"]:
            raise DataError(row["error"])
        meters.count("mindeye_stations_items", what=what)
        yield row["number"], json.loads(row["answer"])


def connect(workers: Workers) -> None:
    """Join the Ray cluster that RAY_ADDRESS names, or start one on this machine.

    Raises:
        InputError: this machine has fewer CPUs or GPUs than workers.
    """
    if workers.without_ray:
        return
    import ray.data

    from jobs.on_ray.join import join

    named = join()
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    kind = "GPU" if workers.gpu else "CPU"
    there = ray.cluster_resources().get(kind, 0)
    if not named and workers.count > there:
        raise InputError(
            f"--workers: {workers.count} workers ask for as many {kind}s, there are {there:g}"
        )
