"""Sweep settings of a run: `python jobs/tune.py [--space schedule+size] [--trials 12] ...`.

With no argument it sweeps the demo. Trials are compared by their retrieval on the val split, the
mean of both directions; the test split is never read. Every flag of jobs/train.py holds for all
trials. What a sweep learned is in report.html of its folder; its best checkpoint is registered in
MLflow.
"""

import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import ray
import tyro
from ray import tune
from rich.console import Console
from rich.table import Table

from jobs.command import clear_errors, settle
from jobs.launch import connect, worker_resources
from jobs.recipes import flags, recipe, recipe_flag
from jobs.registry import end_parent, end_trials, register, set_alias, start_parent
from jobs.search import SCORE, Scheduler, Search, Stop, importance, scheduler, searcher
from jobs.spaces import Space, check_space, parse_space, read_space, space_values, trial_config
from jobs.sweep_table import SweepTable, settings
from jobs.train import check_data, simulate_demo
from jobs.trial import TRIALS, Task, run_trial
from jobs.worker import data_shapes
from mindeye_dist.checkpoint import Checkpoints, digest
from mindeye_dist.config import DataConfig, ExperimentConfig
from mindeye_dist.data.shards import MANIFEST, read_manifest
from mindeye_dist.data.store import Store
from mindeye_dist.engine.journal import TRACKED_RUN, read_journal
from mindeye_dist.report_sweep import write_sweep_report
from mindeye_dist.strict import check, from_dict, override, paths, to_dict
from mindeye_dist.sweep import Trial, ranked, read_trials, rung_levels

SWEEP = "sweep.json"
RETRIES = 2
"""How often a trial whose workers died is started again."""
START_SECONDS = 600
"""How long a trial waits for the CPUs and GPUs of the one before it."""
TRIAL_MEMORY = 1 << 20
"""What a trial itself sets aside (bytes): Tune wants something, and its workers have the CPUs."""
MAY_GROW = ("resume", "wait", "register_as", "alias")


@dataclass(frozen=True, kw_only=True)
class Tune:
    """Sweep settings of a run over a Ray cluster, as many trials at once as fit."""

    recipe: str = "demo-sweep"
    """Whole run to start from (jobs/recipes.py); the other flags change it for all trials."""
    space: str = "schedule+size"
    """What is swept: schedule, size, optim, joined by +; or a JSON file of your own:
    {"optimizer.max_lr": {"log_uniform": [1e-4, 1e-2]}}, with uniform, log_uniform, integer or
    choice."""
    search: Search = "optuna"
    """`optuna` learns where to look (TPE); `random`; `grid` tries all (choices only)."""
    scheduler: Scheduler = "asha"
    """`asha` stops the worse early; `pbt` lets the worse take over the better ones' weights and
    changes settings on the way (no sizes); `none` lets all end."""
    trials: int = 12
    hours: float = 0.0
    """End after this time; 0 is without limit."""
    gpu_hours: float = 0.0
    """End when the trials have used so many; 0 is without limit."""
    patience: int = 0
    """Stop a trial after so many epochs without a better score; 0 never does."""
    grace_epochs: int = 2
    """Epochs before a trial may be stopped; also between two changes by pbt."""
    reduction_factor: int = 3
    """asha: one in so many goes on at each rung, to so many times the epochs."""
    concurrent: int = 0
    """Trials at once; 0 is as many as fit."""
    seed: int = 0
    """Of the search; all trials are trained with training.seed."""
    register_as: str = "mindeye"
    """Name of the best checkpoint in MLflow's registry; empty registers nothing."""
    alias: str = "champion"
    resume: bool = False
    """Go on with the sweep in the run folder, with its own settings."""
    overwrite: bool = False
    """Delete what an earlier sweep left in the run folder."""
    wait: bool = False
    """Wait for a cluster that still has to grow, instead of saying that no trial fits."""
    config: Annotated[ExperimentConfig, tyro.conf.arg(name="")] = field(
        default_factory=ExperimentConfig
    )

    def __post_init__(self) -> None:
        for name, least in {"trials": 1, "grace_epochs": 1, "reduction_factor": 2}.items():
            got = getattr(self, name)
            check(got >= least, name, got, f"at least {least}")
        for name in ("hours", "gpu_hours", "patience", "concurrent"):
            check(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")


@dataclass(frozen=True)
class Sweep:
    """A sweep that was checked: its options, its run, its space, and its run in MLflow."""

    options: Tune
    config: ExperimentConfig
    space: Space
    parent_run: str

    @property
    def folder(self) -> Path:
        """Return the sweep's folder."""
        return Path(self.config.run_dir)


def main(arguments: list[str]) -> None:
    """Parse the command line, sweep, write the report and register the best checkpoint."""
    with clear_errors():
        name = recipe_flag(arguments, Tune.recipe)
        default = Tune(recipe=name, config=recipe(name))
        options = tyro.cli(Tune, default=default, args=arguments, description=__doc__)
        sweep = again(options, default) if options.resume else begin(options)
        connect_apart(sweep)
        open_session(sweep)
        search(sweep)
        conclude(sweep)


def begin(options: Tune) -> Sweep:
    """Check all that can be checked before anything runs, and make the sweep's folder."""
    config = settle(options.config)
    folder = Path(config.run_dir)
    if "://" in config.run_dir:
        raise ValueError(f"run_dir: got {config.run_dir!r}, expected a folder that workers share")
    if (folder / SWEEP).exists() and not options.overwrite:
        raise ValueError(
            f"run_dir: {folder} holds a sweep; --resume goes on with it, --overwrite deletes it, "
            "--run-dir names another folder"
        )
    if config.data.train_on != "train":
        raise ValueError("data.train_on: trials are compared on val, which must not be trained on")
    if options.gpu_hours and config.compute.device != "cuda":
        raise ValueError("--gpu-hours: trials use no GPU; --hours limits the time")
    space = read_space(options.space, config)
    if options.config.data.url == DataConfig.url:
        simulate_demo(config.data.url)
    check_data(config)
    manifest = read_manifest(Store(config.data.url))
    least, most = check_space(space, config, data_shapes(manifest, config))
    settings_of_search(options, config, space)
    print(
        f"{options.trials} trials of {len(space)} settings, models of {least:,} to {most:,} "
        "weights",
        file=sys.stderr,
    )
    if options.overwrite:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    # All trials track where the sweep itself does, not each beside its own folder.
    if config.tracking.mlflow == "sqlite":
        database = f"sqlite:///{folder.parent / 'mlflow.db'}"
        config = override(config, {"tracking.mlflow": database})
    own = {k: v for k, v in to_dict(options).items() if k not in ("config", "resume", "overwrite")}
    parent = start_parent(config, {**own, "space": json.dumps(space_values(space))})
    sweep = Sweep(options, config, space, parent)
    about = {
        "options": to_dict(options),
        "config": to_dict(config),
        "space": space_values(space),
        "parent_run": parent,
        "sessions": [],
    }
    (folder / SWEEP).write_text(json.dumps(about, indent=1))
    return sweep


def again(options: Tune, default: Tune) -> Sweep:
    """Return the sweep that is in the run folder, as it was begun.

    Raises:
        ValueError: there is none, or a flag says other than what it was begun with.
    """
    folder = Path(settle(options.config).run_dir)
    if not (folder / SWEEP).exists():
        raise ValueError(f"--resume: no sweep in {folder}")
    about = json.loads((folder / SWEEP).read_text())
    then = from_dict(Tune, {**about["options"]})
    given, usual, was = paths(options), paths(default), paths(then)
    changed = [
        f"{path} was {was[path]!r}, is {value!r}"
        for path, value in given.items()
        if value not in (usual[path], was[path]) and path not in (*MAY_GROW, "config.run_dir")
    ]
    if changed:
        raise ValueError(f"--resume: goes on as it was begun, but {'; '.join(changed)}")
    config = from_dict(ExperimentConfig, about["config"])
    space = parse_space(about["space"], str(folder / SWEEP))
    return Sweep(then, config, space, about["parent_run"])


def connect_apart(sweep: Sweep) -> None:
    """Join a cluster, or start one whose address its own processes find.

    Ray Train frees what a stopped trial held by looking the cluster up in a file of the temporary
    folder, which another cluster of this machine may have left: its CPUs would stay taken.
    """
    alone = not os.environ.get("RAY_ADDRESS")
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(START_SECONDS)
    if alone:
        os.environ["RAY_TMPDIR"] = tempfile.mkdtemp(prefix="ray-", dir=tempfile.gettempdir())
    connect(sweep.config, wait=sweep.options.wait)
    if alone:
        address = ray.get_runtime_context().gcs_address
        Path(os.environ["RAY_TMPDIR"], "ray_current_cluster").write_text(address)


def settings_of_search(
    options: Tune, config: ExperimentConfig, space: Space
) -> tuple[tune.TuneConfig, dict[str, Any]]:
    """Return Tune's settings, and the space where Tune draws from it itself.

    Raises:
        ValueError: search and scheduler do not go with the space or the run's length.
    """
    epochs = config.training.epochs
    if options.scheduler != "none" and options.grace_epochs > epochs:
        raise ValueError(
            f"grace_epochs: got {options.grace_epochs}, expected at most training.epochs ({epochs})"
        )
    algorithm, own = searcher(options.search, space, options.trials, options.seed)
    settings = tune.TuneConfig(
        search_alg=algorithm,
        scheduler=scheduler(
            options.scheduler,
            space,
            epochs=epochs,
            grace=options.grace_epochs,
            factor=options.reduction_factor,
            seed=options.seed,
        ),
        num_samples=1 if options.search == "grid" else options.trials,
        time_budget_s=options.hours * 3600 or None,
    )
    return settings, own


def search(sweep: Sweep) -> None:
    """Run the trials; what goes wrong with one of them does not end the others."""
    options, config = sweep.options, sweep.config
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # Tune's own table, beside ours
    hands_over = options.scheduler == "pbt"
    task = Task(to_dict(trial_base(config, hands_over)), sweep.parent_run, hands_over)
    trainable = tune.with_resources(
        partial(run_trial, task=task), {"CPU": 0, "memory": TRIAL_MEMORY}
    )
    state = sweep.folder / "ray" / "tune"
    table = SweepTable(sweep.folder / TRIALS, planned(sweep), config.training.epochs)
    if tune.Tuner.can_restore(str(state)):
        tuner = tune.Tuner.restore(
            str(state), trainable=trainable, resume_unfinished=True, restart_errored=True
        )
    else:
        tuning, own = settings_of_search(options, config, sweep.space)
        # Tune sees what a trial holds itself, and not its workers: more would wait for these.
        tuning.max_concurrent_trials = slots_of(sweep)
        each = worker_resources(config.compute).get("GPU", 0.0) * config.compute.num_workers
        stop = Stop(sweep.folder / TRIALS, options.patience, options.gpu_hours, each)
        tuner = tune.Tuner(
            trainable,
            param_space=own,
            tune_config=tuning,
            run_config=tune.RunConfig(
                name=state.name,
                storage_path=str(state.parent),
                stop=stop,
                callbacks=[table],
                failure_config=tune.FailureConfig(max_failures=RETRIES),
                verbose=0,
            ),
        )
    tuner.fit()


def trial_base(config: ExperimentConfig, hands_over: bool) -> ExperimentConfig:
    """Return the run that trials start from; those that hand over keep every checkpoint."""
    keep = config.training.epochs if hands_over else config.checkpoint.keep
    return override(config, {"checkpoint.keep": keep})


def planned(sweep: Sweep) -> int:
    """Return the number of trials."""
    if sweep.options.search != "grid":
        return sweep.options.trials
    product = 1
    for domain in sweep.space.values():
        product *= len(domain.values)
    return product


def open_session(sweep: Sweep) -> None:
    """Note that the sweep goes on now; an earlier session that was killed ended with its trials."""
    file = sweep.folder / SWEEP
    about = json.loads(file.read_text())
    signs = [path.stat().st_mtime for path in (sweep.folder / TRIALS).glob("*/*.jsonl")]
    for session in about["sessions"]:
        session["ended"] = session["ended"] or max([session["begun"], *signs])
    session = {"begun": time.time(), "ended": None, "slots": slots_of(sweep)}
    about["sessions"].append(session)
    file.write_text(json.dumps(about, indent=1))


def conclude(sweep: Sweep) -> None:
    """Write the report, register the best checkpoint and say what came out.

    Raises:
        ValueError: no trial has a score.
    """
    file = sweep.folder / SWEEP
    about = json.loads(file.read_text())
    about["sessions"][-1]["ended"] = time.time()
    file.write_text(json.dumps(about, indent=1))
    trials = read_trials(sweep.folder / TRIALS)
    order = ranked(trials)
    if not order:
        errors = sorted({trial.error for trial in trials if trial.error})
        raise ValueError(f"{sweep.folder}: no trial has a score: {'; '.join(errors) or 'none ran'}")
    champion = order[0]
    options = sweep.options
    levels = [sweep.config.training.epochs]
    if options.scheduler == "asha":
        levels = rung_levels(options.grace_epochs, options.reduction_factor, levels[0])
    command = champion_command(sweep, champion)
    page = write_sweep_report(
        sweep.folder,
        trials,
        about,
        levels=levels,
        importance=importance(sweep.space, trials),
        command=command,
    )
    best = champion.best
    assert best is not None  # it is ranked
    if sweep.parent_run:
        end_trials(sweep.config, tracked_runs(sweep, trials))
    end_parent(sweep.config, sweep.parent_run, {"val/score": best.score}, page)
    print_ranking(order)
    print(f"the best again: {command}")
    publish(sweep, champion)
    print(page)


def tracked_runs(sweep: Sweep, trials: list[Trial]) -> dict[str, str]:
    """Return how the trials that did not end by themselves ended, by their run in MLflow."""
    files = {sweep.folder / TRIALS / t.name / TRACKED_RUN: t for t in trials}
    return {
        file.read_text(): "FAILED" if trial.state == "failed" else "KILLED"
        for file, trial in files.items()
        if trial.state != "finished" and file.exists()
    }


def slots_of(sweep: Sweep) -> int:
    """Return how many trials the cluster has room for at once."""
    compute, there = sweep.config.compute, ray.cluster_resources()
    each = worker_resources(compute)
    room = min(int(there.get(k, 0) / (v * compute.num_workers) + 1e-6) for k, v in each.items())
    return min(room, sweep.options.concurrent or room)


def champion_command(sweep: Sweep, champion: Trial) -> str:
    """Return the command that trains the champion again."""
    options = sweep.options
    config = trial_config(options.config, champion.params)
    own = override(config, {"run_dir": recipe(options.recipe).run_dir})
    words = " ".join(flags(options.recipe, own))
    return (
        f"python jobs/train.py --recipe {options.recipe} --run-dir {options.config.run_dir}-best "
        f"{words}".rstrip()
    )


def publish(sweep: Sweep, champion: Trial) -> None:
    """Register the champion's best checkpoint and give it the alias; say so, or why not."""
    options, config = sweep.options, sweep.config
    if not options.register_as or config.tracking.mlflow == "off":
        return
    folder = sweep.folder / TRIALS / champion.name
    checkpoint, tracked = Checkpoints(str(folder), 1).best(), folder / TRACKED_RUN
    if checkpoint is None or not tracked.exists():
        missing = "checkpoint" if checkpoint is None else "run in MLflow"
        print(f"not registered: trial {champion.name} has no {missing}", file=sys.stderr)
        return
    manifest = Store(config.data.url).read(MANIFEST)
    last = [row for row in read_journal(str(folder)) if "val/score" in row]
    top = max(last, key=lambda row: row["val/score"])
    tags = {
        **{k.replace("/", "."): v for k, v in top.items() if k.startswith("val/")},
        "manifest_sha256": hashlib.sha256(manifest).hexdigest(),
        "checkpoint_manifest_sha256": digest(checkpoint / "manifest.json"),
        "trial": champion.name,
    }
    try:
        version = register(config, tracked.read_text(), checkpoint, options.register_as, tags)
        name = set_alias(config, version, options.alias)
    except ValueError as error:
        print(f"not registered: {error}; --resume tries again", file=sys.stderr)
        return
    print(f"registered: {name} ({version})")


def print_ranking(order: list[Trial]) -> None:
    """Print the best trials."""
    table = Table("trial", "state", "epochs", SCORE, "settings", title="val retrieval")
    for trial in order[:10]:
        best = trial.best
        assert best is not None  # it is ranked
        where = f"{best.epoch}/{trial.epochs}"
        line = settings(trial.params)
        table.add_row(trial.name, trial.state, where, f"{best.score:.3f}", line)
    Console().print(table)


if __name__ == "__main__":
    main(sys.argv[1:])
