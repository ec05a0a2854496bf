"""Sweep settings of a run: `python jobs/tune.py [--space schedule+size] [--trials 12] ...`.

With no argument it sweeps the demo. Trials are compared by their retrieval on the val split, the
mean of both directions; the test split is never read. Every flag of jobs/train.py holds for all
trials. What a sweep learned is in report.html of its folder; its best checkpoint is registered in
MLflow.
"""

import fcntl
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

import ray
import tyro
from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from rich.console import Console

from jobs.command import clear_errors, settle
from jobs.launch import connect, worker_resources
from jobs.recipes import recipe, recipe_flag
from jobs.registry import start_parent
from jobs.search import halving, population, quiet_optuna, searcher
from jobs.spaces import check_space, parse_space, read_space, space_values
from jobs.stop import Budget, BudgetSpentError, Patience, note_stopped
from jobs.sweep_options import SWEEP, Sweep, Tune, slots_of
from jobs.sweep_results import conclude, open_session
from jobs.sweep_table import SweepTable
from jobs.train import check_data, simulate_demo
from jobs.trial import TRIALS, Task, run_trial
from jobs.worker import data_shapes
from mindeye_dist.config import DataConfig, ExperimentConfig
from mindeye_dist.data.shards import read_manifest
from mindeye_dist.data.store import Store
from mindeye_dist.engine.journal import write_whole
from mindeye_dist.strict import from_dict, override, paths, to_dict

RETRIES = 2
"""How often a trial whose workers died is started again."""
START_SECONDS = 24 * 3600
"""How long a trial waits for its CPUs and GPUs: of the one before it, or of a node that is lost."""
TRIAL_MEMORY = 1 << 20
"""What a trial itself sets aside (bytes): Tune wants something, and its workers have the CPUs."""
MAY_GROW = ("wait", "hours", "gpu_hours", "register_as", "alias")
"""What --resume may change."""


def main(arguments: list[str]) -> None:
    """Parse the command line, sweep, write the report and register the best checkpoint."""
    with clear_errors():
        name = recipe_flag(arguments, Tune.recipe)
        default = Tune(recipe=name, config=recipe(name))
        options = tyro.cli(Tune, default=default, args=arguments, description=__doc__)
        sweep = again(arguments, options) if options.resume else plan(options)
        with alone(sweep.folder):
            connect_apart(sweep)
            check_population(sweep)
            sweep = sweep if options.resume else begin(sweep)
            open_session(sweep)
            search(sweep)
            conclude(sweep)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep other programs of this machine off a sweep; the lock ends with the program, or its kill.

    Raises:
        ValueError: another one is at work on it.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Beside the folder, which --overwrite deletes.
    with folder.with_name(f".{folder.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{folder}: another jobs/tune.py is at work on this sweep") from None
        yield


def plan(options: Tune) -> Sweep:
    """Return the sweep that is asked for, with all checked that can be before anything runs."""
    config = settle(options.config)
    folder = Path(config.run_dir)
    if "://" in config.run_dir:
        raise ValueError(f"run_dir: got {config.run_dir!r}, expected a folder that workers share")
    if config.checkpoint.copy_to:
        raise ValueError("checkpoint.copy_to: trials of a sweep are not copied, leave it empty")
    if (folder / SWEEP).exists() and not options.overwrite:
        raise ValueError(
            f"run_dir: {folder} holds a sweep; --resume goes on with it, --overwrite deletes it, "
            "--run-dir names another folder"
        )
    if config.data.train_on != "train":
        raise ValueError("data.train_on: trials are compared on val, which must not be trained on")
    if config.pipeline == "lowlevel":
        raise ValueError(
            "pipeline: got lowlevel, expected highlevel: trials are compared by their retrieval"
        )
    check_budget(options, config)
    space = read_space(options.space, config)
    if options.config.data.url == DataConfig.url:
        simulate_demo(config.data.url)
    check_data(config)
    manifest = read_manifest(Store(config.data.url))
    least, most = check_space(space, config, data_shapes(manifest, config))
    # All trials track where the sweep itself does, not each beside its own folder.
    if config.tracking.mlflow == "sqlite":
        database = f"sqlite:///{folder.parent / 'mlflow.db'}"
        config = override(config, {"tracking.mlflow": database})
    sweep = Sweep(options, config, space, "")
    settings_of_search(sweep)
    print(
        f"{planned(sweep)} trials of {len(space)} settings, models of {least:,} to {most:,} "
        "weights",
        file=sys.stderr,
    )
    return sweep


def begin(planned: Sweep) -> Sweep:
    """Make the sweep's folder and its run in MLflow."""
    options, config, space, folder = planned.options, planned.config, planned.space, planned.folder
    if options.overwrite:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    own = {k: v for k, v in to_dict(options).items() if k not in ("config", "resume", "overwrite")}
    parent = start_parent(config, {**own, "space": json.dumps(space_values(space))})
    about = {
        "options": to_dict(options),
        "config": to_dict(config),
        "space": space_values(space),
        "parent_run": parent,
        "sessions": [],
    }
    write_whole(folder / SWEEP, json.dumps(about, indent=1))
    return replace(planned, parent_run=parent)


def again(arguments: list[str], options: Tune) -> Sweep:
    """Return the sweep that is in the run folder, as it was begun but for what may grow.

    Raises:
        ValueError: there is none, or a flag says other than what it was begun with.
    """
    folder = Path(settle(options.config).run_dir)
    if not (folder / SWEEP).exists():
        raise ValueError(f"--resume: no sweep in {folder}")
    about = json.loads((folder / SWEEP).read_text())
    then = from_dict(Tune, {**about["options"]})
    # Every flag that is not given is as it was, not as it is by default.
    now = tyro.cli(Tune, default=replace(then, resume=True), args=arguments)
    was, free = paths(then), (*MAY_GROW, "resume", "overwrite", "config.run_dir")
    changed = [
        f"{path} was {was[path]!r}, is {value!r}"
        for path, value in paths(now).items()
        if value != was[path] and path not in free
    ]
    if changed:
        raise ValueError(f"--resume: goes on as it was begun, but {'; '.join(changed)}")
    config = from_dict(ExperimentConfig, about["config"])
    check_budget(now, config)
    space = parse_space(about["space"], str(folder / SWEEP))
    write_whole(folder / SWEEP, json.dumps({**about, "options": to_dict(now)}, indent=1))
    return Sweep(now, config, space, about["parent_run"])


def check_budget(options: Tune, config: ExperimentConfig) -> None:
    """See that there is something to count a budget by.

    Raises:
        ValueError: there is not.
    """
    if options.gpu_hours and config.compute.device != "cuda":
        raise ValueError("--gpu-hours: trials use no GPU; --hours limits the time")


def check_population(sweep: Sweep) -> None:
    """See that all trials of a population can be trained at once.

    Raises:
        ValueError: they cannot.
    """
    slots, trials = slots_of(sweep), sweep.options.trials
    if sweep.options.scheduler == "pbt" and slots < trials:
        raise ValueError(
            f"--scheduler pbt: trains its {trials} trials at once, there is room for {slots}; "
            "lower --trials, or what compute sets aside for a worker"
        )


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
        Path(os.environ["RAY_TMPDIR"], "ray", "ray_current_cluster").write_text(address)


def settings_of_search(sweep: Sweep, slots: int = 0) -> tuple[tune.TuneConfig, dict[str, Any]]:
    """Return Tune's settings, and the space where Tune draws from it itself.

    Raises:
        ValueError: search and scheduler do not go with each other, the space or the run's length.
    """
    options, space, epochs = sweep.options, sweep.space, sweep.config.training.epochs
    if options.scheduler != "none" and options.grace_epochs > epochs:
        raise ValueError(
            f"grace_epochs: got {options.grace_epochs}, expected at most training.epochs ({epochs})"
        )
    if options.scheduler == "pbt" and options.search != "random":
        raise ValueError(
            f"--scheduler pbt: changes settings by itself, --search {options.search} would be in "
            "its way; expected --search random, which the population starts from"
        )
    if options.search == "grid" and planned(sweep) > options.trials:
        raise ValueError(
            f"--search grid: {planned(sweep)} combinations, --trials allows {options.trials}"
        )
    algorithm, own = searcher(options.search, space, options.trials, options.seed, slots)
    settings = tune.TuneConfig(
        search_alg=algorithm,
        scheduler=scheduler(sweep),
        num_samples=1 if options.search == "grid" else options.trials,
        # Tune sees what a trial holds itself, and not its workers: more would wait for these.
        max_concurrent_trials=slots if options.search == "optuna" and slots else None,
    )
    return settings, own


def scheduler(sweep: Sweep) -> TrialScheduler:
    """Return what stops trials early, or changes them on the way.

    Raises:
        ValueError: it does not go with the space.
    """
    options = sweep.options
    if options.scheduler == "pbt":
        return population(sweep.space, options.grace_epochs, options.seed)
    if options.scheduler == "none":
        return FIFOScheduler()
    return halving(
        sweep.folder / TRIALS,
        epochs=sweep.config.training.epochs,
        grace=options.grace_epochs,
        factor=options.reduction_factor,
    )


def search(sweep: Sweep) -> None:
    """Run the trials; what goes wrong with one of them does not end the others."""
    options, config = sweep.options, sweep.config
    os.environ |= {
        "RAY_AIR_NEW_OUTPUT": "0",  # Tune's own table, beside ours
        # Ctrl-C ends the program, and not only the search: half a sweep has no champion.
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
        # A trial is on record before its folder is there.
        "TUNE_GLOBAL_CHECKPOINT_S": "1",
    }
    quiet_optuna()
    hands_over = options.scheduler == "pbt"
    task = Task(to_dict(trial_base(sweep)), sweep.parent_run, hands_over)
    trainable = tune.with_resources(
        partial(run_trial, task=task), {"CPU": 0, "memory": TRIAL_MEMORY}
    )
    state = sweep.folder / "ray" / "tune"
    table = SweepTable(sweep.folder / TRIALS, planned(sweep), config.training.epochs)
    if has_state(state):
        tuner = tune.Tuner.restore(
            str(state), trainable=trainable, resume_unfinished=True, resume_errored=True
        )
    else:
        shutil.rmtree(state, ignore_errors=True)
        tuning, own = settings_of_search(sweep, slots_of(sweep))
        each = worker_resources(config.compute).get("GPU", 0.0) * config.compute.num_workers
        tuner = tune.Tuner(
            trainable,
            param_space=own,
            tune_config=tuning,
            run_config=tune.RunConfig(
                name=state.name,
                storage_path=str(state.parent),
                stop=Patience(sweep.folder / TRIALS, options.patience),
                callbacks=[table, Budget(sweep.folder, each, table)],
                failure_config=tune.FailureConfig(max_failures=RETRIES),
                verbose=0,
            ),
        )
    try:
        tuner.fit()
    except BudgetSpentError as error:
        note_stopped(sweep.folder / TRIALS)
        print(error, file=sys.stderr)
    finally:
        Console(stderr=True).show_cursor(True)  # the live table hides it


def has_state(folder: Path) -> bool:
    """Return whether Tune left a search in a folder that can go on.

    Raises:
        ValueError: its state was cut short; Tune would begin another search without a word.
    """
    files = sorted(folder.glob("experiment_state-*"), reverse=True)
    broken = list(takewhile(is_cut_short, files))
    if files and broken == files:
        raise ValueError(
            f"{folder}: the state of the search was cut short, and there is no earlier one; the "
            "trials are whole, but only --overwrite can begin a search again"
        )
    for file in broken:  # Tune would take the newest
        file.rename(file.with_name(f"broken-{file.name}"))
    return bool(files)


def is_cut_short(file: Path) -> bool:
    """Return whether a file is no whole JSON."""
    try:
        json.loads(file.read_text())
    except ValueError:  # no JSON, or no text
        return True
    return False


def trial_base(sweep: Sweep) -> ExperimentConfig:
    """Return the run that trials start from.

    Those of a population keep what they may still hand over: a checkpoint an epoch, from one change
    to the next and a little longer.
    """
    if sweep.options.scheduler != "pbt":
        return sweep.config
    keep = max(sweep.config.checkpoint.keep, sweep.options.grace_epochs + 2)
    return override(sweep.config, {"checkpoint.keep": keep})


def planned(sweep: Sweep) -> int:
    """Return the number of trials."""
    if sweep.options.search != "grid":
        return sweep.options.trials
    product = 1
    for domain in sweep.space.values():
        product *= len(domain.values)
    return product


if __name__ == "__main__":
    main(sys.argv[1:])
