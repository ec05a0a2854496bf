"""Metrics of runs as rows come in.

Oracle: what a stand-in for Ray's meters was told; Ray's own refuse a count of nothing.
"""

import pytest
from ray.util import metrics

from jobs.on_ray.prometheus import TRAINING, Meters, TrainingMeters


class Meter:
    """Notes what it is told; a counter is as strict as Ray's."""

    told = []

    def __init__(self, name, description, *more):
        """Take a name."""
        self.name = name

    def set(self, value, tags=None):
        """Note a gauge's value."""
        self.told.append((self.name, value))

    def inc(self, value, tags=None):
        """Note a counter's step."""
        if value <= 0:
            raise ValueError(value)
        self.told.append((self.name, value))

    observe = set


@pytest.fixture
def told(monkeypatch):
    for kind in ("Counter", "Gauge", "Histogram"):
        monkeypatch.setattr(metrics, kind, Meter)
    monkeypatch.setattr(Meter, "told", [])
    return Meter.told


def test_rows_become_gauges_and_new_retries_are_counted(told):
    report = TrainingMeters()
    report({"step": 1, "train/samples_per_s": 5.0, "train/read_retries": 0})
    report({"step": 2, "train/read_retries": 3})
    report({"step": 3, "train/read_retries": 3, "val/score": 1.0})
    counted = [value for name, value in told if name == "mindeye_read_retries"]
    assert counted == [3]
    assert [value for name, value in told if name == "mindeye_train_step"] == [1.0, 2.0, 3.0]


def test_a_ray_counter_refuses_to_be_given_nothing():
    with pytest.raises(ValueError, match="value must be >0"):
        metrics.Counter("mindeye_test", "", ()).inc(0)
    assert {metric.kind for metric in TRAINING} == {"gauge", "counter"}
    Meters(TRAINING).count("mindeye_read_retries", 0)  # ours takes it for what it is
