"""Sweeps on a real Ray cluster. Oracles: the best trial trained without Ray, MLflow's tables."""

import json
import pickle
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import tyro
from ray.tune.stopper import NoopStopper

from jobs import tune
from jobs.opening.checkpoints import fetch_named_checkpoint
from jobs.recipes import recipe
from jobs.sweeps import plan as sweep_plan
from jobs.sweeps import run as sweep_run
from jobs.sweeps.options import CHANGES, Tune
from jobs.sweeps.records import read_trials, rung_levels
from jobs.sweeps.report import write_sweep_report
from jobs.sweeps.spaces import space_values, trial_config
from jobs.worker import worker
from mindeye_dist.runs.checkpoints import verify
from mindeye_dist.runs.journal import read_journal
from mindeye_dist.strict import override
from tests.conftest import flags, ray_environment
from tests.ray_cluster import head

ROOT = Path(__file__).parents[2]
FORMAT_0 = ROOT / "tests/fixtures/format-0/sweep"
"""A sweep of two trials as the code of commit 056f2e4 wrote it; of the journals a part."""
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
    out, errors = process.communicate(timeout=400)
    return process.returncode, out, errors


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
    code, out, errors = run(longer, "--resume")
    assert code == 0, errors
    after = trials_of(longer)
    assert len(after) == 2
    assert before.keys() <= after.keys()
    for name, trial in before.items():
        assert after[name].params == trial.params
        if trial.state in ("finished", "stopped"):
            # A trial whose end the driver missed is started again, and ends at once.
            assert after[name].curve == trial.curve
    assert {trial.state for trial in after.values()} <= {"finished", "stopped"}
    winner = max(after.values(), key=lambda t: (t.state == "finished", t.best_point.score))
    alone = override(trial_config(longer, winner.params), {"run_dir": f"{config.run_dir}-alone"})
    worker(override(alone, {"tracking.mlflow": "off"}))
    curve = [point.score for point in winner.curve]
    assert curve == pytest.approx(scores(alone.run_dir), abs=1e-6)
    check_mlflow(longer, len(after))
    assert "registered: models:/mindeye@champion" in out
    assert f"{winner.best_point.score:.3f}" in (Path(longer.run_dir) / "report.html").read_text()


@pytest.mark.ray
@pytest.mark.chaos
def test_stopped_trials_free_their_room_beside_another_cluster(lab, tmp_path):
    """There is room for one trial at a time: the next waits for the CPUs of a stopped one.

    With this seed the first trial has the largest learning rate, so that later ones are stopped.
    """
    config, _ = lab
    one = {"training.epochs": 20, "compute.cpus_per_worker": 2.0, "tracking.mlflow": "off"}
    config, space = override(config, one), tmp_path / "lr.json"
    space.write_text(json.dumps({"optimizer.max_lr": {"choice": [1e-2, 1e-6, 1e-7, 1e-8]}}))
    options = ["--space", space, "--search", "random", "--seed", 25, "--trials", 4]
    with head():
        code, _, errors = run(config, *options, "--reduction-factor", 2)
    assert code == 0, errors
    states = [trial.state for trial in trials_of(config).values()]
    assert len(states) == 4
    assert "stopped" in states[:-1], states


def check_mlflow(config, count):
    """MLflow has an ended parent with its ended trials; the alias leads to a whole checkpoint."""
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
    verify(fetch_named_checkpoint("models:/mindeye@champion", f"sqlite:///{database}"))


def test_settings_that_no_sweep_has_are_refused_before_anything_runs(lab, tmp_path):
    config, space = lab
    base = [*flags(config), "--recipe", "demo", "--space", str(space)]
    for more, message in (
        (["--data.train-on", "train+val"], "val, which must not be trained on"),
        (["--grace-epochs", "7"], "grace_epochs: got 7, expected at most training.epochs"),
        (["--pipeline", "lowlevel"], "compared by their retrieval"),
        (["--trials", "0"], "trials: got 0"),
        (["--resume"], "no sweep in"),
    ):
        with pytest.raises(SystemExit) as error:
            tune.main([*base, *more])
        assert message in str(error.value) or message in str(error.value.__context__)
    assert not Path(config.run_dir).exists()


def test_a_resumed_sweep_keeps_its_settings_except_hours_and_registration(lab):
    config, space = lab
    options = Tune(recipe="demo", space=str(space), trials=3, config=config)
    begun = sweep_plan.begin(sweep_plan.plan(options))
    base = ["--recipe", "demo", "--run-dir", config.run_dir, "--resume"]

    def resumed(*more):
        words = [*base, *map(str, more)]
        return sweep_plan.resume(words, tyro.cli(Tune, default=Tune(recipe="demo"), args=words))

    assert (resumed().config, resumed().space) == (begun.config, begun.space)
    assert resumed().options.trials == 3
    with pytest.raises(ValueError, match="trials was 3, is 5"):
        resumed("--trials", 5)
    with pytest.raises(ValueError, match="training.epochs was 6, is 9"):
        resumed("--training.epochs", 9)
    with pytest.raises(ValueError, match="holds a sweep"):
        sweep_plan.plan(options)
    assert resumed("--hours", 9, "--alias", "staging").options.hours == 9.0
    assert resumed().options.alias == "staging"  # stored by the resume before
    options = resumed("--hours", 0, "--alias", "champion").options
    assert (options.hours, options.alias) == (
        0.0,
        "champion",
    )  # explicit flags with the default values


def test_a_named_cluster_may_grow_to_the_trials_at_once(tiny_config, monkeypatch):
    """There is room for two trials; only a cluster that RAY_ADDRESS names can get more."""
    monkeypatch.setattr(sweep_plan, "room_for_workers", lambda compute: 2)
    for address, concurrent, slots in (("", 0, 2), ("", 5, 2), ("", 1, 1), ("a:1", 5, 5)):
        monkeypatch.setenv("RAY_ADDRESS", address)
        sweep = sweep_plan.Sweep(Tune(concurrent=concurrent), tiny_config, {}, "")
        assert sweep_plan.slots_of(sweep) == slots


def test_the_options_import_no_heavy_package():
    """Oracle: the modules of a process that can print --help."""
    code = "import sys, jobs.sweeps.options, jobs.recipes; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)
    assert not {"torch", "ray", "optuna", "mlflow"} & set(out.stdout.decode().split())


@pytest.fixture
def stored_sweep(tmp_path):
    """Return the folder of a sweep that was written before sweep.json had a format number."""
    folder = tmp_path / "sweep"
    shutil.copytree(FORMAT_0, folder)
    text = (folder / "sweep.json").read_text()
    (folder / "sweep.json").write_text(text.replace("LAB", str(tmp_path)))
    return folder


def change_option(folder, **changes):
    stored = json.loads((folder / "sweep.json").read_text())
    stored["options"] |= changes
    (folder / "sweep.json").write_text(json.dumps(stored))


@pytest.mark.parametrize("waited", [False, True])
def test_a_sweep_of_format_0_can_be_resumed(stored_sweep, waited):
    """Oracle: the fixture's own file; what is written back has a format number."""
    change_option(stored_sweep, wait=waited)
    before = json.loads((stored_sweep / "sweep.json").read_text())
    words = ["--recipe", "demo", "--run-dir", str(stored_sweep), "--resume", "--hours", "2"]
    default = Tune(recipe="demo", config=recipe("demo"))
    sweep = sweep_plan.resume(words, tyro.cli(Tune, default=default, args=words))
    assert sweep.folder == stored_sweep
    assert (sweep.options.trials, sweep.options.scheduler, sweep.options.hours) == (2, "asha", 2.0)
    assert space_values(sweep.space) == before["space"]
    assert sweep.config.optimizer.max_lr == before["config"]["optimizer"]["max_lr"]
    after = json.loads((stored_sweep / "sweep.json").read_text())
    assert after["format"] == CHANGES[-1].format
    assert after["sessions"] == before["sessions"]
    assert sweep_plan.read_sweep(stored_sweep) == sweep


def test_a_sweep_of_format_0_has_the_same_report(stored_sweep):
    """Oracle: report.json as the earlier code wrote it."""
    before = json.loads((stored_sweep / "report.json").read_text())
    options = sweep_plan.read_sweep(stored_sweep).options
    write_sweep_report(
        stored_sweep,
        read_trials(stored_sweep / "trials"),
        json.loads((stored_sweep / "sweep.json").read_text()),
        levels=rung_levels(options.grace_epochs, options.reduction_factor, 3),
        importance={},
        command=before["command"],
    )
    after = json.loads((stored_sweep / "report.json").read_text())
    same = ("space", "levels", "trials", "ranking", "rungs", "importance", "time")
    assert {key: after[key] for key in same} == {key: before[key] for key in same}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("scheduler", "pbt"),
        ("search", "grid"),
        ("patience", 3),
        ("gpu_hours", 2.5),
        ("never_an_option", 1),
    ],
)
def test_removed_and_unknown_options_in_use_are_errors(stored_sweep, key, value):
    change_option(stored_sweep, **{key: value})
    with pytest.raises(ValueError, match=f"sweep.json: .*{key}") as error:
        sweep_plan.read_sweep(stored_sweep)
    assert key == "never_an_option" or repr(value) in str(error.value)


def test_a_stopper_in_the_state_of_a_format_0_search_is_replaced(monkeypatch):
    """Tune's state names the removed class by module and name."""
    monkeypatch.delitem(sys.modules, "jobs.stop", raising=False)
    sweep_run.replace_removed_stopper()
    assert pickle.loads(b"cjobs.stop\nPatience\n.") is NoopStopper


def test_one_program_works_on_a_sweep_at_a_time(tmp_path):
    folder = tmp_path / "runs" / "sweep"
    with sweep_plan.locked(folder):
        message = "another jobs/tune.py is at work on this sweep"
        with pytest.raises(ValueError, match=message), sweep_plan.locked(folder):
            pass
        with sweep_plan.locked(folder.with_name("other")):
            pass
    with sweep_plan.locked(folder):
        pass


def test_a_search_whose_state_was_cut_short_is_not_begun_anew(tmp_path):
    assert not sweep_run.has_state(tmp_path)
    earlier, last = (tmp_path / f"experiment_state-2026-11-2{day}.json" for day in (1, 2))
    earlier.write_text("{}")
    last.write_text('{"trials": [')
    assert sweep_run.has_state(tmp_path)
    assert not last.exists()
    earlier.write_text("")
    for _ in range(2):
        with pytest.raises(ValueError, match="the state of the search was cut short"):
            sweep_run.has_state(tmp_path)


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
    raise AssertionError("found no training process")


def kill_all(process):
    """Kill the driver, and with it its Ray."""
    children = psutil.Process(process.pid).children(recursive=True)
    for each in (psutil.Process(process.pid), *children):
        try:
            each.kill()
        except psutil.NoSuchProcess:
            continue
    process.communicate()
