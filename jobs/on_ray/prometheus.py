"""Prometheus metrics of runs, exported by Ray: a table of metrics, and the meters made from it.

Ray exports each metric as `ray_NAME`, counters as `ray_NAME_total`. No metric names a subject or a
run.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ray.util import metrics


@dataclass(frozen=True)
class Metric:
    """A metric; `bounds` are the upper bounds of a histogram's bins."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    description: str
    tags: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()


TRAINING = (
    Metric("mindeye_train_step", "gauge", "Optimizer steps done."),
    Metric("mindeye_train_samples_per_second", "gauge", "Samples per second since the start."),
    Metric("mindeye_train_data_wait_fraction", "gauge", "Share of the time waiting for data."),
    Metric(
        "mindeye_train_checkpoint_pause_seconds",
        "gauge",
        "Wait of training for the last checkpoint.",
    ),
    Metric("mindeye_read_retries", "counter", "Requests to the store that were sent again."),
    Metric("mindeye_read_damaged", "counter", "Members that came damaged and were read again."),
    Metric("mindeye_bad_samples", "counter", "Bad samples that training skipped."),
    Metric(
        "mindeye_non_finite_steps", "counter", "Steps skipped as their gradient was not finite."
    ),
    Metric("mindeye_stations_items", "counter", "Finished items of batch jobs.", ("what",)),
)
ROWS = {
    "step": "mindeye_train_step",
    "train/samples_per_s": "mindeye_train_samples_per_second",
    "train/data_wait_fraction": "mindeye_train_data_wait_fraction",
    "train/checkpoint_pause_s": "mindeye_train_checkpoint_pause_seconds",
}
"""Gauge of each column of a run's journal."""
COUNTED = {
    "train/read_retries": "mindeye_read_retries",
    "train/read_damaged": "mindeye_read_damaged",
    "train/bad_samples": "mindeye_bad_samples",
    "train/non_finite_steps": "mindeye_non_finite_steps",
}
"""Counter of each column of counts of a run's journal."""


class Meters:
    """Meters of a table, by name; made inside the Ray process that uses them."""

    def __init__(self, table: Sequence[Metric]) -> None:
        self._meters: dict[str, Any] = {metric.name: _meter(metric) for metric in table}

    def count(self, name: str, by: float = 1.0, **tags: str) -> None:
        """Add to a counter; nothing for 0, which Ray's counter refuses."""
        if by > 0:
            self._meters[name].inc(by, tags=tags or None)

    def set(self, name: str, value: float, **tags: str) -> None:
        """Set a gauge."""
        self._meters[name].set(value, tags=tags or None)

    def observe(self, name: str, value: float, **tags: str) -> None:
        """Add an observation to a histogram."""
        self._meters[name].observe(value, tags=tags or None)


def _meter(metric: Metric) -> metrics.Counter | metrics.Gauge | metrics.Histogram:
    if metric.kind == "counter":
        return metrics.Counter(metric.name, metric.description, metric.tags)
    if metric.kind == "gauge":
        return metrics.Gauge(metric.name, metric.description, metric.tags)
    return metrics.Histogram(metric.name, metric.description, list(metric.bounds), metric.tags)


class TrainingMeters:
    """Report that passes a run's rows of metrics to Prometheus."""

    def __init__(self) -> None:
        self._meters, self._counted = Meters(TRAINING), dict.fromkeys(COUNTED, 0.0)

    def __call__(self, row: dict[str, Any]) -> None:
        """Update the meters from a row of metrics."""
        for column, name in ROWS.items():
            if column in row:
                self._meters.set(name, float(row[column]))
        for column, name in COUNTED.items():
            if column in row:
                self._meters.count(name, row[column] - self._counted[column])
                self._counted[column] = row[column]
