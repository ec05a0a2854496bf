"""MLflow's data base, read with sqlite: what a run leaves in it, whatever its end."""

import sqlite3
from pathlib import Path

import pytest

from jobs.command import line, seconds_left
from jobs.tracking import tracked
from mindeye_dist.strict import override


def query(database, sql):
    connection = sqlite3.connect(database)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def fail(config):
    with tracked(config) as (report,):
        report({"step": 1, "time": 1.0, "train/total": 3.0})
        raise RuntimeError("stop")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own, of SQLAlchemy
def test_a_failed_run_says_so_and_its_resumption_goes_on_with_it(tiny_config):
    config = override(tiny_config, {"tracking.mlflow": "sqlite"})
    Path(config.run_dir).mkdir()
    database = Path(config.run_dir).parent / "mlflow.db"
    with pytest.raises(RuntimeError, match="stop"):
        fail(config)
    assert query(database, "select status from runs") == [("FAILED",)]
    with tracked(config) as (report,):
        report({"step": 2, "time": 2.0, "train/total": 2.0})
    assert query(database, "select status from runs") == [("FINISHED",)]
    rows = query(
        database, "select step, value from metrics where key = 'train/total' order by step"
    )
    assert rows == [(1, 3.0), (2, 2.0)]


def test_tracking_can_be_off(tiny_config):
    with tracked(tiny_config) as reports:
        assert reports == []


def test_the_live_line_says_what_is_happening():
    values = {
        "epoch": 2,
        "step": 30,
        "first_step": 10,
        "total_steps": 110,
        "train/total": 1.5,
        "train/contrastive": 1.0,
        "train/prior": 0.5,
        "train/samples_per_s": 99.6,
        "train/data_wait_fraction": 0.04,
        "train/wall_s": 10.0,
    }
    assert line(values).split("  ") == [
        "epoch 3",
        "step 30/110",
        "loss 1.500",
        "(contrastive 1.0000, prior 0.5000)",
        "100 samples/s",
        "data wait 4%",
    ]
    assert seconds_left(values) == pytest.approx(40.0)
