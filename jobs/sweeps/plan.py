"""Beginning or resuming a sweep: checks before anything runs, and `sweep.json` in its folder."""

import fcntl
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import tyro

from jobs.command import with_absolute_paths
from jobs.on_ray.launch import room_for_workers
from jobs.opening.demo_data import check_subject_data, simulate_demo
from jobs.opening.encoders import data_shapes
from jobs.sweeps.options import CHANGES, SWEEP, Tune
from jobs.sweeps.spaces import Space, check_space, parse_space, read_space, space_values
from jobs.tracking.registry import start_parent
from mindeye_dist.config import DataConfig, ExperimentConfig
from mindeye_dist.data.manifest import read_manifest
from mindeye_dist.errors import InputError
from mindeye_dist.runs.config_changes import CHANGES as CONFIG_CHANGES
from mindeye_dist.runs.journal import write_atomically
from mindeye_dist.storage.store import Store
from mindeye_dist.strict import from_stored, override, paths, to_dict, to_stored

CHANGEABLE = ("hours", "register_as", "alias")
"""Options that --resume may change."""


@dataclass(frozen=True)
class Sweep:
    """A checked sweep.

    Attributes:
        options: its command line.
        config: the run that its trials start from, with absolute folders.
        space: its search space.
        parent_run: its run in MLflow; empty where there is none.
    """

    options: Tune
    config: ExperimentConfig
    space: Space
    parent_run: str

    @property
    def folder(self) -> Path:
        """Return the sweep's folder."""
        return Path(self.config.run_dir)


def slots_of(sweep: Sweep) -> int:
    """Return the number of trials at once, at least one."""
    compute, concurrent = sweep.config.compute, sweep.options.concurrent
    if concurrent and os.environ.get("RAY_ADDRESS"):
        return concurrent  # an autoscaler adds nodes only once there are workers to wait for them
    room = max(1, room_for_workers(compute) // compute.num_workers)
    return min(room, concurrent or room)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a sweep's folder against other programs of this machine, until this program ends.

    Raises:
        InputError: another program has locked it.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Beside the folder, because --overwrite deletes the folder.
    with folder.with_name(f".{folder.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{folder}: another jobs/tune.py is at work on this sweep") from None
        yield


def plan(options: Tune) -> Sweep:
    """Check a new sweep's options, its data and the models of its space.

    Raises:
        InputError: a setting does not go with a sweep; the message names it.
    """
    config = with_absolute_paths(options.config)
    check_options(options, config)
    space = read_space(options.space, config)
    if options.config.data.url == DataConfig.url:
        simulate_demo(config.data.url)
    check_subject_data(config)
    manifest = read_manifest(Store(config.data.url))
    smallest, largest = check_space(space, config, data_shapes(manifest, config))
    # One tracking database for all trials, instead of one beside each trial's folder.
    if config.tracking.mlflow == "sqlite":
        database = f"sqlite:///{Path(config.run_dir).parent / 'mlflow.db'}"
        config = override(config, {"tracking.mlflow": database})
    print(
        f"{options.trials} trials of {len(space)} settings, models of {smallest:,} to {largest:,} "
        "weights",
        file=sys.stderr,
    )
    return Sweep(options, config, space, "")


def check_options(options: Tune, config: ExperimentConfig) -> None:
    """Check the settings that a sweep restricts.

    Raises:
        InputError: one of them does not go with a sweep; the message names it.
    """
    if "://" in config.run_dir:
        raise InputError(f"run_dir: got {config.run_dir!r}, expected a folder that workers share")
    if config.checkpoint.copy_to:
        raise InputError("checkpoint.copy_to: a sweep does not copy its trials, leave it empty")
    if (Path(config.run_dir) / SWEEP).exists() and not options.overwrite:
        raise InputError(
            f"run_dir: {config.run_dir} holds a sweep; --resume continues it, --overwrite deletes "
            "it, --run-dir names another folder"
        )
    if config.data.train_on != "train":
        raise InputError(
            f"data.train_on: got {config.data.train_on}, expected train: trials are compared on "
            "val, which must not be trained on"
        )
    if config.pipeline == "lowlevel":
        raise InputError(
            "pipeline: got lowlevel, expected highlevel: trials are compared by their retrieval"
        )
    epochs = config.training.epochs
    if options.scheduler != "none" and options.grace_epochs > epochs:
        raise InputError(
            f"grace_epochs: got {options.grace_epochs}, expected at most training.epochs ({epochs})"
        )


def begin(planned: Sweep) -> Sweep:
    """Make the sweep's folder and its run in MLflow."""
    options, folder = planned.options, planned.folder
    if options.overwrite:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    params = to_dict(options)
    for name in ("config", "resume", "overwrite"):
        del params[name]
    params["space"] = json.dumps(space_values(planned.space))
    sweep = replace(planned, parent_run=start_parent(planned.config, params))
    write_sweep(sweep, [])
    return sweep


def write_sweep(sweep: Sweep, sessions: list[dict[str, float]]) -> None:
    """Write `sweep.json`: its format number is that of the options; each config has its own."""
    options = to_stored(sweep.options, CHANGES)
    options["config"] = to_stored(sweep.options.config, CONFIG_CHANGES)
    stored = {
        "format": options.pop("format"),
        "options": options,
        "config": to_stored(sweep.config, CONFIG_CHANGES),
        "space": space_values(sweep.space),
        "parent_run": sweep.parent_run,
        "sessions": sessions,
    }
    write_atomically(sweep.folder / SWEEP, json.dumps(stored, indent=1))


def read_sweep(folder: Path) -> Sweep:
    """Read `sweep.json`, also of an earlier format.

    Raises:
        InputError: a key is unknown, a value is invalid, or an option in use was removed since; the
            message names file, key and value.
    """
    file = folder / SWEEP
    stored = json.loads(file.read_text())
    values = {"format": stored.get("format", 0), **stored["options"]}
    if values["format"] == 0:
        values.pop("wait", None)  # either value: a sweep now always waits for a named cluster
    try:
        base = from_stored(ExperimentConfig, values["config"], CONFIG_CHANGES)
        options = from_stored(Tune, {**values, "config": to_dict(base)}, CHANGES)
        config = from_stored(ExperimentConfig, stored["config"], CONFIG_CHANGES)
    except ValueError as error:
        raise InputError(f"{file}: {error}") from error
    return Sweep(options, config, parse_space(stored["space"], str(file)), stored["parent_run"])


def resume(arguments: list[str], options: Tune) -> Sweep:
    """Return the sweep in the run folder, with the settings of its start.

    Raises:
        InputError: there is no sweep, or a flag differs from its start and is not changeable.
    """
    folder = Path(with_absolute_paths(options.config).run_dir)
    if not (folder / SWEEP).exists():
        raise InputError(f"--resume: no sweep in {folder}")
    stored = read_sweep(folder)
    # Parsed again: a missing flag means the value of the sweep's start, not the default.
    options = tyro.cli(Tune, default=replace(stored.options, resume=True), args=arguments)
    before = paths(stored.options)
    changeable = (*CHANGEABLE, "resume", "overwrite", "config.run_dir")
    changed = [
        f"{path} was {before[path]!r}, is {value!r}"
        for path, value in paths(options).items()
        if value != before[path] and path not in changeable
    ]
    if changed:
        raise InputError(
            f"--resume: a sweep continues with the settings of its start, but {'; '.join(changed)}"
        )
    sweep = replace(stored, options=options)
    write_sweep(sweep, json.loads((folder / SWEEP).read_text())["sessions"])
    return sweep
