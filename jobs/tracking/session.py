"""Session: a training whose metrics a thread sends to MLflow while it runs."""

import logging
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from jobs.tracking.record import Tracking, begin, tracking_uri, write_tracking
from mindeye_dist.config import ExperimentConfig
from mindeye_dist.errors import DataError, PreemptedError
from mindeye_dist.runs.journal import Report

if TYPE_CHECKING:
    from jobs.tracking.mlflow_delivery import Delivery

log = logging.getLogger(__name__)
FLUSH_SECONDS = 20.0
"""Maximum wait for MLflow at the end of a run."""
CLOSING_TRIES = 3
"""Maximum number of attempts at the end of a run."""
GATHER_SECONDS = 1.0
"""Pause between two successful deliveries."""
FIRST_WAIT, LONGEST_WAIT = 1.0, 30.0
"""Delay after a first failure, and the longest delay, in seconds."""


@contextmanager
def tracked(config: ExperimentConfig, parent: str = "") -> Iterator[list[Report]]:
    """Yield the reports that send metrics to MLflow; none if tracking is off.

    Args:
        config: settings of the run.
        parent: id of the sweep's MLflow run, for a trial.
    """
    if config.tracking.mlflow == "off":
        yield []
        return
    tracker = Tracker(begin(config, parent), tracking_uri(config))
    status = "FAILED"
    try:
        yield [tracker]
        status = "FINISHED"
    except PreemptedError:
        status = "KILLED"  # it goes on elsewhere or later
        raise
    finally:
        tracker.close(status)


class Tracker:
    """Report that has a thread send the run's journal to MLflow, with retries.

    Training never waits, except for a bounded time at the end. Metrics that are not sent by then
    stay in the journal, for jobs/track.py.
    """

    def __init__(self, tracking: Tracking, uri: str) -> None:
        self._tracking = tracking
        self._uri = uri
        self._written = threading.Event()
        self._ended = threading.Event()
        self._done = False
        self._failing = False
        if tracking.parent:  # Tune may stop a trial at any moment: its MLflow run comes first
            import jobs.tracking.mlflow_delivery  # noqa: F401
        self._thread = threading.Thread(target=self._run, name="mlflow", daemon=True)
        self._thread.start()

    def __call__(self, metrics: dict[str, Any]) -> None:
        """Note that the journal has a new row."""
        self._written.set()

    def close(self, status: str) -> None:
        """Send the rest of the journal and the final status, for a bounded time."""
        self._tracking = replace(self._tracking, status=status, ended=time.time())
        try:
            write_tracking(self._tracking)
        except DataError as error:  # the disk is full, which the run reports itself
            log.warning("mlflow: %s", error)
        self._ended.set()
        self._written.set()
        self._thread.join(FLUSH_SECONDS)
        if not self._done:
            log.warning(
                "mlflow: %s did not take all metrics; the journal has them: "
                "python jobs/track.py --run-dir %s",
                self._uri,
                self._tracking.config.run_dir,
            )

    def _run(self) -> None:
        if not self._tracking.parent:
            self._written.wait()  # importing MLflow takes seconds that the start of training needs
        from jobs.tracking.mlflow_delivery import DELIVERY_ERRORS, Delivery

        delivery = Delivery(self._tracking, self._uri)
        try:
            self._keep_delivering(delivery, DELIVERY_ERRORS)
        finally:
            delivery.close()

    def _keep_delivering(
        self, delivery: "Delivery", delivery_errors: tuple[type[Exception], ...]
    ) -> None:
        wait, tries = FIRST_WAIT, 0
        while not self._done and tries < CLOSING_TRIES:
            ended = self._ended.is_set()  # read first: all rows written before are then sent
            pause = GATHER_SECONDS
            try:
                self._deliver(delivery, ended)
                self._say(None)
                wait = FIRST_WAIT
            except delivery_errors as error:
                self._say(error)
                # Jittered, so that runs that share a server do not retry together.
                pause = wait * random.uniform(0.5, 1.0)
                wait = min(2 * wait, LONGEST_WAIT)
                tries += ended
            if not ended:
                self._ended.wait(pause)
            elif not self._done:
                time.sleep(FIRST_WAIT)

    def _deliver(self, delivery: "Delivery", ended: bool) -> None:
        delivery.open()
        if self._written.is_set():  # before the first row, the journal may still be cut
            delivery.send()
        if ended:
            delivery.end(self._tracking.status, self._tracking.ended)
            self._done = True

    def _say(self, error: Exception | None) -> None:
        """Log a change between failing and working, once each time."""
        if error and not self._failing:
            log.warning("mlflow: %s: %s; metrics stay in the journal", self._uri, error)
        if self._failing and not error:
            log.warning("mlflow: %s: takes metrics again", self._uri)
        self._failing = error is not None
