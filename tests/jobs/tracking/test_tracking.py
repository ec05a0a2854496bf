"""A run's journal in MLflow: whatever fails, each key of each step is there once.

Oracle of all: the journal's lines.
"""

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from jobs import track
from jobs.command import metrics_line, seconds_left
from jobs.tracking import session
from jobs.tracking.mlflow_delivery import Delivery
from jobs.tracking.record import RUNNING, TRACKING, begin, read_tracking, tracking_uri
from jobs.tracking.session import tracked
from jobs.worker import worker
from mindeye_dist.runs.folder import TRACKED_RUN
from mindeye_dist.runs.journal import Journal
from mindeye_dist.strict import override
from tests.mlflow_server import serving, stop
from tests.s3 import free_ports

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",  # MLflow's own, of SQLAlchemy
    "ignore::FutureWarning",  # of its store of files
)


@pytest.fixture(scope="module")
def made_database(tmp_path_factory):
    """Return a data base as MLflow makes it, which takes it seconds."""
    database = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{database}").search_experiments()
    return database


@pytest.fixture
def databases(made_database, tmp_path):
    """Return three, the first of which is where a run beside it looks."""
    return [shutil.copy(made_database, tmp_path / f"mlflow{number}.db") for number in ("", 2, 3)]


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    """Try again soon; the environment, which a tracker changes, is as it was afterwards."""
    monkeypatch.setattr(session, "FIRST_WAIT", 0.1)
    monkeypatch.setattr(session, "LONGEST_WAIT", 0.5)
    monkeypatch.setattr(session, "GATHER_SECONDS", 0.1)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")


def query(database, sql):
    connection = sqlite3.connect(database)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def told(uri, run_id):
    """Return the values that MLflow has by key and step; each must be there once."""
    client = MlflowClient(uri)
    history = [
        metric
        for key in client.get_run(run_id).data.metrics
        for metric in client.get_metric_history(run_id, key)
    ]
    values = {(metric.key, metric.step): metric.value for metric in history}
    assert len(values) == len(history)
    return values


def written(run_dir):
    """Return the journal's values by key and step."""
    values = {}
    for text in (Path(run_dir) / "journal.jsonl").read_text().splitlines():
        row = json.loads(text)
        for key in row.keys() - {"step", "time"}:
            values.setdefault((key, row["step"]), row[key])
    return values


def run_id(config):
    return (Path(config.run_dir) / TRACKED_RUN).read_text()


def rows(steps, session):
    """Return rows of a run: the loss is the step's, the wall clock the session's."""
    for step in steps:
        stamp = 1000.0 * session + step
        yield {"time": stamp, "step": step, "epoch": 0, "loss": 1 / step, "wall_s": stamp}
        if step % 10 == 0:
            yield {"time": stamp + 0.5, "step": step, "epoch": 0, "val/score": step / 100}


def train(config, steps, session, from_step=0):
    """Write a session's rows as training does."""
    with tracked(config) as reports:
        journal = Journal(config.run_dir, from_step)
        for row in rows(steps, session):
            for report in (journal, *reports):
                report(row)


def fail(config):
    with tracked(config) as (report,):
        row = {"step": 1, "time": 1.0, "train/total": 3.0}
        Journal(config.run_dir, 0)(row)
        report(row)
        raise RuntimeError("stop")


def in_sqlite(config):
    return override(config, {"tracking.mlflow": "sqlite"})


@pytest.mark.usefixtures("databases")
def test_a_failed_run_says_so_and_its_resumption_goes_on_with_it(tiny_config):
    config = in_sqlite(tiny_config)
    database = Path(config.run_dir).parent / "mlflow.db"
    with pytest.raises(RuntimeError, match="stop"):
        fail(config)
    assert query(database, "select status from runs") == [("FAILED",)]
    with tracked(config) as (report,):
        row = {"step": 2, "time": 2.0, "train/total": 2.0}
        Journal(config.run_dir, 1)(row)
        report(row)
    assert query(database, "select status from runs") == [("FINISHED",)]
    found = query(
        database, "select step, value from metrics where key = 'train/total' order by step"
    )
    assert found == [(1, 3.0), (2, 2.0)]


@pytest.mark.usefixtures("databases")
def test_another_run_in_a_folder_without_checkpoints_is_another_run(tiny_config):
    config = in_sqlite(tiny_config)
    with pytest.raises(RuntimeError, match="stop"):
        fail(config)
    first = run_id(config)
    other = override(config, {"optimizer.max_lr": 0.5})
    train(other, [1], 1)
    second = run_id(other)
    assert first != second
    assert told(tracking_uri(other), second) == written(other.run_dir)
    assert (
        MlflowClient(tracking_uri(other)).get_run(second).data.params["optimizer.max_lr"] == "0.5"
    )


@pytest.mark.usefixtures("databases")
def test_a_resumed_run_has_the_steps_of_the_journal(tiny_config):
    """The first session was cut back from step 60 to 30, and reported every other step alone.

    Its losses were the same; its wall clock stays where a step was told of before.
    """
    config = in_sqlite(tiny_config)
    train(config, range(2, 61, 2), 1)
    before = told(tracking_uri(config), run_id(config))
    train(config, range(31, 91), 2, from_step=30)
    after = told(tracking_uri(config), run_id(config))
    journal = written(config.run_dir)
    assert after.keys() == journal.keys()
    assert after == journal | before
    losses = {place for place in journal if place[0] != "wall_s"}
    assert {place: after[place] for place in losses} == {p: journal[p] for p in losses}


def lose_answers(monkeypatch, name):
    """Let every other call of a method of MLflow's client be carried out and then fail."""
    method, calls = getattr(MlflowClient, name), []

    def call(*arguments, **named):
        calls.append(named)
        answer = method(*arguments, **named)
        if len(calls) % 2:
            raise MlflowException("the answer was lost")
        return answer

    monkeypatch.setattr(MlflowClient, name, call)
    return calls


@pytest.mark.parametrize("store", ["sqlite", "file"])
def test_what_was_delivered_without_an_answer_is_there_once(
    store, tiny_config, databases, tmp_path, monkeypatch, capsys
):
    """The store of files takes the same row twice where it is sent twice, unlike the data base."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = f"sqlite:///{databases[0]}" if store == "sqlite" else (tmp_path / "files").as_uri()
    begin(tiny_config, "")
    journal = Journal(tiny_config.run_dir, 0)
    for row in rows(range(1, 161), 1):
        journal(row)
    with monkeypatch.context() as patch:
        lose_answers(patch, "create_run")
        batches = lose_answers(patch, "log_batch")
        for _ in range(4):  # the run, its settings, and of the four batches the second and fourth
            with pytest.raises(SystemExit, match="was lost; the same command goes on"):
                track.main(["--run-dir", tiny_config.run_dir, "--tracking.mlflow", uri])
        track.main(["--run-dir", tiny_config.run_dir, "--tracking.mlflow", uri])
    assert len([batch for batch in batches if "metrics" in batch]) == 4
    assert told(uri, run_id(tiny_config)) == written(tiny_config.run_dir)
    capsys.readouterr()
    track.main(["--run-dir", tiny_config.run_dir, "--tracking.mlflow", uri])
    assert capsys.readouterr().err.startswith("0 metrics sent")
    client = MlflowClient(uri)
    assert len(client.search_runs(["1"] if store == "sqlite" else experiments(client))) == 1


def experiments(client):
    return [found.experiment_id for found in client.search_experiments()]


@pytest.mark.usefixtures("databases")
def test_large_batches_are_cut_to_what_mlflow_takes(tiny_config, monkeypatch):
    config = in_sqlite(tiny_config)
    sizes, method = [], MlflowClient.log_batch

    def call(self, run, metrics=(), params=(), tags=()):
        sizes.append(len(metrics) + len(params))
        return method(self, run, metrics=metrics, params=params, tags=tags)

    monkeypatch.setattr(MlflowClient, "log_batch", call)
    with tracked(config) as (report,):
        journal = Journal(config.run_dir, 0)
        for step in range(60):
            journal({"time": 1.0, "step": step, **{f"metric{n}": n * step for n in range(30)}})
        report({})
    assert max(sizes) <= 1000
    assert len(sizes) < 10
    assert told(tracking_uri(config), run_id(config)) == written(config.run_dir)


@pytest.mark.usefixtures("databases")
def test_an_untracked_run_is_told_afterwards(tiny_config):
    config = override(tiny_config, {"training.epochs": 2, "training.seed": 7})
    worker(config)
    with pytest.raises(SystemExit, match="the run had none"):
        track.main(["--run-dir", config.run_dir])
    for _ in range(2):
        track.main(["--run-dir", config.run_dir, "--tracking.mlflow", "sqlite"])
    uri = tracking_uri(in_sqlite(config))
    journal = written(config.run_dir)
    assert told(uri, run_id(config)) == journal
    run = MlflowClient(uri).get_run(run_id(config))
    assert run.data.params["training.seed"] == "7"
    assert run.info.status == "FINISHED"
    assert run.info.start_time < run.info.end_time < 1000 * time.time()


def test_a_run_whose_server_was_down_is_told_afterwards(tiny_config, databases, caplog):
    """Also to two servers in turn, of which each has it once; and how it ended."""
    (port,) = free_ports(1)
    config = override(tiny_config, {"tracking.mlflow": f"http://127.0.0.1:{port}"})
    with pytest.raises(RuntimeError, match="stop"):
        fail(config)
    assert f"python jobs/track.py --run-dir {config.run_dir}" in caplog.text
    assert len([text for text in caplog.messages if "metrics stay in the journal" in text]) == 1
    with pytest.raises(SystemExit, match=f"mlflow: http://127.0.0.1:{port}"):
        track.main(["--run-dir", config.run_dir])
    servers = databases[1:]
    for database in (*servers, *servers):
        track.main(["--run-dir", config.run_dir, "--tracking.mlflow", f"sqlite:///{database}"])
    for database in servers:
        assert query(database, "select status from runs") == [("FAILED",)]
        assert query(database, "select key, step, value from metrics") == [("train/total", 1, 3.0)]


def test_a_killed_run_is_told_as_killed_unless_its_end_is_known(tiny_config, databases):
    config = in_sqlite(tiny_config)
    train(config, [1, 2], 1)
    note = Path(config.run_dir) / TRACKING
    note.write_text(note.read_text().replace('"FINISHED"', f'"{RUNNING}"'))
    home, elsewhere, _ = databases
    track.main(["--run-dir", config.run_dir])
    track.main(["--run-dir", config.run_dir, "--tracking.mlflow", f"sqlite:///{elsewhere}"])
    assert query(home, "select status from runs") == [("FINISHED",)]
    assert query(elsewhere, "select status from runs") == [("KILLED",)]


@pytest.mark.usefixtures("databases")
def test_a_run_that_trains_is_not_told_by_two(tiny_config):
    config = in_sqlite(tiny_config)
    first = Delivery(begin(config, ""), tracking_uri(config))
    Journal(config.run_dir, 0)({"step": 1, "time": 1.0, "loss": 1.0})
    first.open()
    with pytest.raises(SystemExit, match="another process is sending it"):
        track.main(["--run-dir", config.run_dir])
    first.close()
    track.main(["--run-dir", config.run_dir])
    assert read_tracking(config.run_dir).status == RUNNING


def test_what_is_no_run_is_said(tmp_path):
    with pytest.raises(SystemExit, match="run_dir: got"):
        track.main(["--run-dir", str(tmp_path / "none")])
    Journal(str(tmp_path), 0)({"step": 1, "time": 1.0, "loss": 1.0})
    with pytest.raises(SystemExit, match="neither tracking.json nor a good checkpoint"):
        track.main(["--run-dir", str(tmp_path)])


def finish_beside_a_silent_server(run_dir, port):
    """Run in a process of its own: a run of one row, which ends in a bounded time."""
    from mindeye_dist.config import ExperimentConfig

    session.FLUSH_SECONDS = 1.0
    url = f"http://127.0.0.1:{port}"
    train(override(ExperimentConfig(run_dir=run_dir), {"tracking.mlflow": url}), [1], 1)
    sys.stdout.write("ended\n")
    sys.stdout.flush()


@pytest.mark.processes
def test_a_server_that_never_answers_does_not_keep_the_process(tmp_path):
    """MLflow's own timeout is 120 s, its tries are seven; neither is waited for."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        code = (
            "from tests.jobs.tracking import test_tracking as tests\n"
            f"tests.finish_beside_a_silent_server({str(tmp_path / 'run')!r}, "
            f"{silent.getsockname()[1]})"
        )
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment
        )
        assert process.stdout.readline() == "ended\n"
        begun = time.monotonic()
        assert process.wait(timeout=60) == 0
        process.stdout.close()
        assert time.monotonic() - begun < 10
    assert read_tracking(str(tmp_path / "run")).status == "FINISHED"


@pytest.mark.processes
def test_a_server_that_was_down_or_died_has_every_metric_once(
    tiny_config, tmp_path, monkeypatch, caplog
):
    """One run without a server, told afterwards; one whose server dies in it and comes back."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")  # two busy cores
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    config = override(tiny_config, {"tracking.mlflow": url})
    with tracked(config) as trackers:
        worker(config, trackers)
    assert not (Path(config.run_dir) / TRACKED_RUN).exists()
    other = override(config, {"run_dir": str(tmp_path / "other")})
    with ExitStack() as servers:
        process = servers.enter_context(serving(port, tmp_path))
        for _ in range(2):
            track.main(["--run-dir", config.run_dir])
        assert told(url, run_id(config)) == written(config.run_dir)
        with tracked(other) as reports:
            say_rows(other, reports, range(1, 51))
            await_steps(url, other, 50)
            stop(process)
            caplog.clear()
            say_rows(other, reports, range(51, 101), from_step=50)
            wait_for(lambda: "metrics stay in the journal" in caplog.text)
            servers.enter_context(serving(port, tmp_path))
            say_rows(other, reports, range(101, 151), from_step=100)
            wait_for(lambda: "takes metrics again" in caplog.text)
        assert told(url, run_id(other)) == written(other.run_dir)
        ends = [MlflowClient(url).get_run(run_id(each)).info.status for each in (config, other)]
        assert ends == ["FINISHED", "FINISHED"]


def say_rows(config, reports, steps, from_step=0):
    journal = Journal(config.run_dir, from_step)
    for row in rows(steps, 1):
        for report in (journal, *reports):
            report(row)


def await_steps(url, config, step):
    def there():
        if not (Path(config.run_dir) / TRACKED_RUN).exists():
            return False
        history = MlflowClient(url).get_metric_history(run_id(config), "val/score")
        return max((metric.step for metric in history), default=0) == step

    wait_for(there)


def wait_for(holds):
    deadline = time.monotonic() + 180
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


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
    assert metrics_line(values).split("  ") == [
        "epoch 3",
        "step 30/110",
        "loss 1.500",
        "(contrastive 1.0000, prior 0.5000)",
        "100 samples/s",
        "data wait 4%",
    ]
    assert seconds_left(values) == pytest.approx(40.0)
