"""Sweep settings of a run: `python jobs/tune.py [--space schedule+size] [--trials 12] ...`.

With no argument it sweeps the demo. Trials are compared by their retrieval on the val split, the
mean of both directions; the test split is never read. Every flag of jobs/train.py holds for all
trials. What a sweep learned is in report.html of its folder; its best checkpoint is registered in
MLflow.
"""

import json
import os
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import ray
import tyro
from ray import tune

from jobs.command import clear_errors, settle
from jobs.launch import connect, worker_resources
from jobs.recipes import recipe, recipe_flag
from jobs.registry import start_parent
from jobs.search import Stop, scheduler, searcher
from jobs.spaces import Space, check_space, parse_space, read_space, space_values
from jobs.sweep_options import SWEEP, Sweep, Tune, slots_of
from jobs.sweep_results import conclude, open_session
from jobs.sweep_table import SweepTable
from jobs.train import check_data, simulate_demo
from jobs.trial import TRIALS, Task, run_trial
from jobs.worker import data_shapes
from mindeye_dist.config import DataConfig, ExperimentConfig
from mindeye_dist.data.shards import read_manifest
from mindeye_dist.data.store import Store
from mindeye_dist.strict import from_dict, override, paths, to_dict

RETRIES = 2
"""How often a trial whose workers died is started again."""
START_SECONDS = 600
"""How long a trial waits for the CPUs and GPUs of the one before it."""
TRIAL_MEMORY = 1 << 20
"""What a trial itself sets aside (bytes): Tune wants something, and its workers have the CPUs."""
MAY_GROW = ("resume", "wait", "register_as", "alias")


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
    options: Tune, config: ExperimentConfig, space: Space, slots: int = 0
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
    algorithm, own = searcher(options.search, space, options.trials, options.seed, slots)
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
        # Tune sees what a trial holds itself, and not its workers: more would wait for these.
        max_concurrent_trials=slots if options.search == "optuna" and slots else None,
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
        tuning, own = settings_of_search(options, config, sweep.space, slots_of(sweep))
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


if __name__ == "__main__":
    main(sys.argv[1:])
