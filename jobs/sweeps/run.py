"""Running a sweep's trials with Ray Tune, in a new search or from the state of an earlier one."""

import json
import os
import shutil
import sys
import tempfile
from functools import partial
from itertools import takewhile
from pathlib import Path
from types import ModuleType

import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.stopper import NoopStopper
from rich.console import Console

from jobs.on_ray.launch import connect
from jobs.sweeps.budget import Budget, BudgetSpentError, mark_stopped
from jobs.sweeps.plan import Sweep, slots_of
from jobs.sweeps.search import asha, make_searcher, quiet_optuna
from jobs.sweeps.table import SweepTable
from jobs.sweeps.trial import TRIALS, Task, run_trial
from mindeye_dist.errors import InputError
from mindeye_dist.strict import to_dict

RETRIES = 2
"""Maximum number of restarts of a trial whose workers died."""
START_SECONDS = 24 * 3600
"""Maximum wait of a trial for its CPUs and GPUs, which an earlier trial or a lost node had."""
TRIAL_MEMORY = 1 << 20
"""Memory that a trial's own actor reserves, in bytes. Tune requires a reservation; the CPUs are
the workers'."""


def connect_apart(sweep: Sweep) -> None:
    """Join the Ray cluster that RAY_ADDRESS names, or start one that only this sweep uses.

    Ray Train frees a stopped trial's resources by looking the cluster's address up in a file of the
    temporary folder. Another cluster of this machine may have left that file; then the CPUs would
    stay taken.
    """
    starts_own = not os.environ.get("RAY_ADDRESS")
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(START_SECONDS)
    if starts_own:
        os.environ["RAY_TMPDIR"] = tempfile.mkdtemp(prefix="ray-", dir=tempfile.gettempdir())
    connect(sweep.config)
    if starts_own:
        address = ray.get_runtime_context().gcs_address
        Path(os.environ["RAY_TMPDIR"], "ray", "ray_current_cluster").write_text(address)


def run_trials(sweep: Sweep) -> None:
    """Run the trials; a trial that fails does not end the others.

    Of an earlier session, unfinished and failed trials continue.
    """
    options, trials = sweep.options, sweep.folder / TRIALS
    os.environ |= {
        "RAY_AIR_NEW_OUTPUT": "0",  # no table of Tune's own beside ours
        # Ctrl-C ends the program, and not only the search: half a sweep has no champion.
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
        # Tune's state is saved each second, so that it names every trial that has a folder.
        "TUNE_GLOBAL_CHECKPOINT_S": "1",
    }
    quiet_optuna()
    state = sweep.folder / "ray" / "tune"
    resumes = has_state(state)
    if resumes:
        replace_removed_stopper()
    else:
        shutil.rmtree(state, ignore_errors=True)
    slots = slots_of(sweep)
    again = tune.ResumeConfig(errored=tune.ResumeConfig.ResumeType.RESUME)  # type: ignore[arg-type]
    searcher, space = make_searcher(
        options.search, sweep.space, options.trials, options.seed, slots
    )
    task = Task(to_dict(sweep.config), sweep.parent_run)
    table = SweepTable(trials, options.trials, sweep.config.training.epochs)
    try:
        # Not tune.Tuner: it resumes by unpickling our scheduler and callbacks, which fails where
        # an earlier version of this program had them in other modules.
        tune.run(
            tune.with_resources(partial(run_trial, task=task), {"CPU": 0, "memory": TRIAL_MEMORY}),
            name=state.name,
            storage_path=str(state.parent),
            config=space,
            search_alg=searcher,
            scheduler=make_scheduler(sweep),
            num_samples=options.trials,
            # Tune counts a trial's own resources and not its workers': without a limit it would
            # start more trials than fit, which would wait for workers.
            max_concurrent_trials=slots if options.search == "optuna" else None,
            callbacks=[table, Budget(sweep.folder, table)],
            max_failures=RETRIES,
            raise_on_failed_trial=False,
            resume_config=again if resumes else None,
            verbose=0,
        )
    except BudgetSpentError as error:
        mark_stopped(trials)
        print(error, file=sys.stderr)
    finally:
        Console(stderr=True).show_cursor(True)  # the live table hides it


def make_scheduler(sweep: Sweep) -> TrialScheduler:
    """Return Tune's scheduler, which decides whether a trial continues."""
    options = sweep.options
    if options.scheduler == "none":
        return FIFOScheduler()
    return asha(
        sweep.folder / TRIALS,
        epochs=sweep.config.training.epochs,
        grace=options.grace_epochs,
        factor=options.reduction_factor,
    )


def replace_removed_stopper() -> None:
    """Let Tune unpickle the state of a format 0 sweep: it names a stopper that is removed since.

    The stopper belonged to --patience; a sweep that used --patience is refused before.
    """
    name = ".".join(("jobs", "stop"))  # the module's name then, wherever its code is now
    module = sys.modules.setdefault(name, ModuleType(name))
    module.Patience = NoopStopper  # type: ignore[attr-defined]


def has_state(folder: Path) -> bool:
    """Return whether a folder holds a state of Tune from which a search can continue.

    Raises:
        InputError: every state file was cut short; Tune would begin another search silently.
    """
    files = sorted(folder.glob("experiment_state-*"), reverse=True)
    broken = list(takewhile(is_cut_short, files))
    if files and broken == files:
        raise InputError(
            f"{folder}: the state of the search was cut short, and there is no earlier one; the "
            "trials are whole, but only --overwrite can begin a search again"
        )
    for file in broken:  # Tune would read the newest
        file.rename(file.with_name(f"broken-{file.name}"))
    return bool(files)


def is_cut_short(file: Path) -> bool:
    """Return whether a file is not whole JSON."""
    try:
        json.loads(file.read_text())
    except ValueError:  # no JSON, or no text
        return True
    return False
