"""What a sweep is asked for, and the sweep that was checked."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from jobs.launch import room_for_workers
from jobs.search import Scheduler, Search
from jobs.spaces import Space
from mindeye_dist.config import ExperimentConfig
from mindeye_dist.strict import check

SWEEP = "sweep.json"
"""What a sweep's folder says of it."""


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
    """End after this time, all sessions together; 0 is without limit."""
    gpu_hours: float = 0.0
    """End when the trials have used so many; 0 is without limit."""
    patience: int = 0
    """Stop a trial after so many epochs without a better score; 0 never does."""
    grace_epochs: int = 2
    """Epochs before a trial may be stopped; also between two changes by pbt."""
    reduction_factor: int = 3
    """asha: one in so many goes on at each rung, to so many times the epochs."""
    concurrent: int = 0
    """Trials at once; 0 is as many as fit when the sweep starts."""
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
    """Wait for a cluster that still has to grow, instead of saying that no trial fits; --concurrent
    says to how many trials."""
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


def slots_of(sweep: Sweep) -> int:
    """Return how many trials are run at once: as many as the cluster has room for, at least one."""
    compute, options = sweep.config.compute, sweep.options
    if options.wait and options.concurrent:
        return options.concurrent
    room = max(1, room_for_workers(compute) // compute.num_workers)
    return min(room, options.concurrent or room)
