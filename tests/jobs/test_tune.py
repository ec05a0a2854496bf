"""Sweeps on a real Ray cluster. Oracles: the same trials without Ray, and an undisturbed count."""

import json
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import tyro

from jobs import tune as job
from jobs.runs import given
from jobs.spaces import trial_config
from jobs.sweep_options import Tune
from jobs.worker import worker
from mindeye_dist.checkpoint import verify
from mindeye_dist.engine.journal import read_journal
from mindeye_dist.strict import override
from mindeye_dist.sweep import read_trials
from tests.conftest import flags, ray_environment
from tests.ray_cluster import head

ROOT = Path(__file__).parents[2]
SHORT = {
    "training.epochs": 6,
    "training.validate_every_epochs": 1,
    "tracking.mlflow": "sqlite",
    "compute.cpus_per_worker": 1.0,
}
SPACE = {
    "loss.mixco_fraction": {"uniform": [0.1, 0.6]},
    "model.backbone.hidden": {"choice": [16, 32]},
}


@pytest.fixture
def lab(tiny_config, tmp_path):
    """Return a short run in a sweep's folder, and a file with a space."""
    space = tmp_path / "space.json"
    space.write_text(json.dumps(SPACE))
    return override(tiny_config, {**SHORT, "run_dir": str(tmp_path / "lab" / "sweep")}), space


def start(config, *more):
    return subprocess.Popen(
        [sys.executable, "jobs/tune.py", "--recipe", "demo", *flags(config), *map(str, more)],
        cwd=ROOT,
        env=ray_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(config, *more):
    process = start(config, *more)
    out, said = process.communicate(timeout=400)
    return process.returncode, out, said


def trials_of(config):
    return {trial.name: trial for trial in read_trials(Path(config.run_dir) / "trials")}


def scores(run_dir):
    return [row["val/score"] for row in read_journal(str(run_dir)) if "val/score" in row]


@pytest.mark.ray
def test_killed_driver_and_trial_then_resume(lab):
    """Two trials: a worker is killed, then the driver with all of Ray; `--resume` ends them.

    Oracle of the best one's curve: the same settings trained here, without Ray.
    """
    config, space = lab
    longer = override(config, {"training.epochs": 30})
    options = ["--space", space, "--trials", 2, "--grace-epochs", 10]
    process = start(longer, *options)
    try:
        wait_for(lambda: any(trial.curve for trial in trials_of(longer).values()), process)
        kill_worker(process)
        wait_for(lambda: any(t.starts > 1 for t in trials_of(longer).values()), process)
    finally:
        kill_all(process)
    before = trials_of(longer)
    code, out, said = run(longer, "--resume")
    assert code == 0, said
    after = trials_of(longer)
    assert len(after) == 2
    assert before.keys() <= after.keys()
    for name, trial in before.items():
        assert after[name].params == trial.params
        if trial.state in ("finished", "stopped"):
            # One whose end the driver had not heard of is started again, and ends at once.
            assert after[name].curve == trial.curve
    assert {trial.state for trial in after.values()} <= {"finished", "stopped"}
    best = max(after.values(), key=lambda t: (t.state == "finished", t.best.score))
    alone = override(trial_config(longer, best.params), {"run_dir": f"{config.run_dir}-alone"})
    worker(override(alone, {"tracking.mlflow": "off"}))
    curve = [point.score for point in best.curve]
    assert curve == pytest.approx(scores(alone.run_dir), abs=1e-6)
    check_mlflow(longer, len(after))
    assert "registered: models:/mindeye@champion" in out
    assert f"{best.best.score:.3f}" in (Path(longer.run_dir) / "report.html").read_text()


@pytest.mark.ray
@pytest.mark.chaos
def test_stopped_trials_free_their_room_beside_another_cluster(lab, tmp_path):
    """There is room for one at a time: the next one waits for the CPUs of one that was stopped."""
    config, _ = lab
    one = {"training.epochs": 20, "compute.cpus_per_worker": 2.0, "tracking.mlflow": "off"}
    config, space = override(config, one), tmp_path / "lr.json"
    space.write_text(json.dumps({"optimizer.max_lr": {"choice": [1e-2, 1e-6, 1e-7, 1e-8]}}))
    options = ["--space", space, "--search", "grid", "--trials", 4, "--grace-epochs", 2]
    with head():
        code, _, said = run(config, *options, "--reduction-factor", 2)
    assert code == 0, said
    states = [trial.state for trial in trials_of(config).values()]
    assert len(states) == 4
    assert "stopped" in states[:-1], states


def check_mlflow(config, count):
    """A parent and its trials, all ended, and an alias that leads to a whole checkpoint."""
    database = Path(config.run_dir).parent / "mlflow.db"
    connection = sqlite3.connect(database)
    children = connection.execute(
        "select r.status from runs r join tags t on r.run_uuid = t.run_uuid "
        "where t.key = 'mlflow.parentRunId'"
    ).fetchall()
    parents = connection.execute(
        "select r.status from runs r join tags t on r.run_uuid = t.run_uuid "
        "where t.key = 'mindeye.sweep'"
    ).fetchall()
    connection.close()
    assert parents == [("FINISHED",)]
    assert len(children) == count
    assert {status for (status,) in children} <= {"FINISHED", "KILLED"}
    verify(given("models:/mindeye@champion", f"sqlite:///{database}"))


@pytest.mark.ray
@pytest.mark.chaos
def test_a_population_hands_its_weights_over(lab, tmp_path):
    """Some trial takes another's checkpoint over: its journal begins with the other's rows.

    Without a takeover two learning rates give two curves.
    """
    config, _ = lab
    space = tmp_path / "lr.json"
    space.write_text(json.dumps({"optimizer.max_lr": {"log_uniform": [1e-6, 1e-2]}}))
    # Without an end that one could reach before the other has begun.
    endless = override(config, {"training.epochs": 5000, "tracking.mlflow": "off"})
    more = ["--scheduler", "pbt", "--search", "random", "--trials", 2, "--grace-epochs", 40]

    def taken_over():
        trials = trials_of(endless).values()
        curves = [tuple(p.score for p in trial.curve[:4]) for trial in trials if trial.curve]
        return any(trial.starts > 1 for trial in trials) and len(set(curves)) < len(curves)

    process = start(endless, "--space", space, *more)
    try:
        wait_for(taken_over, process)
    finally:
        kill_all(process)


def test_what_cannot_be_swept_is_said_before_anything_runs(lab, tmp_path):
    config, space = lab
    base = [*flags(config), "--recipe", "demo", "--space", str(space)]
    for more, message in (
        (["--data.train-on", "train+val"], "val, which must not be trained on"),
        (["--gpu-hours", "2"], "trials use no GPU"),
        (["--grace-epochs", "7"], "grace_epochs: got 7, expected at most training.epochs"),
        (["--search", "grid"], "expected choices alone, got loss.mixco_fraction"),
        (["--scheduler", "pbt"], "--search optuna would be in its way"),
        (["--scheduler", "pbt", "--search", "random"], "model.backbone.hidden cannot be in its"),
        (["--pipeline", "lowlevel"], "compared by their retrieval"),
        (["--trials", "0"], "trials: got 0"),
        (["--resume"], "no sweep in"),
    ):
        with pytest.raises(SystemExit) as error:
            job.main([*base, *more])
        assert message in str(error.value) or message in str(error.value.__context__)
    assert not Path(config.run_dir).exists()


def test_a_resumed_sweep_keeps_its_settings_but_for_what_may_grow(lab):
    config, space = lab
    options = Tune(recipe="demo", space=str(space), trials=3, config=config)
    begun = job.begin(job.plan(options))
    base = ["--recipe", "demo", "--run-dir", config.run_dir, "--resume"]

    def resumed(*more):
        words = [*base, *map(str, more)]
        return job.again(words, tyro.cli(Tune, default=Tune(recipe="demo"), args=words))

    assert (resumed().config, resumed().space) == (begun.config, begun.space)
    assert resumed().options.trials == 3
    with pytest.raises(ValueError, match="trials was 3, is 5"):
        resumed("--trials", 5)
    with pytest.raises(ValueError, match="training.epochs was 6, is 9"):
        resumed("--training.epochs", 9)
    with pytest.raises(ValueError, match="trials use no GPU"):
        resumed("--gpu-hours", 9)
    with pytest.raises(ValueError, match="holds a sweep"):
        job.plan(options)
    assert resumed("--hours", 9, "--alias", "staging").options.hours == 9.0
    assert resumed().options.alias == "staging"  # it is the sweep's from then on
    grown = resumed("--hours", 0, "--alias", "champion").options
    assert (grown.hours, grown.alias) == (0.0, "champion")  # the defaults, by their flags


def test_one_program_works_on_a_sweep_at_a_time(tmp_path):
    folder = tmp_path / "runs" / "sweep"
    with job.alone(folder):
        message = "another jobs/tune.py is at work on this sweep"
        with pytest.raises(ValueError, match=message), job.alone(folder):
            pass
        with job.alone(folder.with_name("other")):
            pass
    with job.alone(folder):
        pass


def test_a_search_whose_state_was_cut_short_is_not_begun_anew(tmp_path):
    assert not job.has_state(tmp_path)
    earlier, last = (tmp_path / f"experiment_state-2026-11-2{day}.json" for day in (1, 2))
    earlier.write_text("{}")
    last.write_text('{"trials": [')
    assert job.has_state(tmp_path)
    assert not last.exists()
    earlier.write_text("")
    for _ in range(2):
        with pytest.raises(ValueError, match="the state of the search was cut short"):
            job.has_state(tmp_path)


def wait_for(holds, process, seconds=600):
    deadline = time.monotonic() + seconds
    while not holds():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.2)


def kill_worker(process):
    """Kill a training process of a trial."""
    for child in psutil.Process(process.pid).children(recursive=True):
        if "TrainWorker" in " ".join(child.cmdline()):
            child.send_signal(signal.SIGKILL)
            return
    raise AssertionError("no training process was seen")


def kill_all(process):
    """Kill the driver, and with it its Ray."""
    children = psutil.Process(process.pid).children(recursive=True)
    for each in (psutil.Process(process.pid), *children):
        try:
            each.kill()
        except psutil.NoSuchProcess:
            continue
    process.communicate()
