"""Command-line options of jobs/tune.py. Imports no heavy package, so that --help is fast."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from mindeye_dist.config import ExperimentConfig
from mindeye_dist.strict import Change, check

SWEEP = "sweep.json"
"""File in a sweep's folder with its options, config, space, MLflow run and sessions."""
CHANGES = (Change(format=1, removed={"gpu_hours": 0.0, "patience": 0}),)
"""Changes of the stored options since format 0; those of the run are in mindeye_dist/config.py."""
Search = Literal["optuna", "random"]
Scheduler = Literal["asha", "none"]


@dataclass(frozen=True, kw_only=True)
class Tune:
    """Search for better settings of a run, with as many trials at once as fit a Ray cluster."""

    recipe: str = "demo-sweep"
    """Named run to start from (jobs/recipes.py); the other flags change it for all trials."""
    space: str = "schedule+size"
    """Search space: schedule, size, optim, joined by +; or a JSON file of your own,
    {"optimizer.max_lr": {"log_uniform": [1e-4, 1e-2]}}, with uniform, log_uniform, integer or
    choice."""
    search: Search = "optuna"
    """`optuna` proposes settings by TPE, from the scores so far; `random` draws them."""
    scheduler: Scheduler = "asha"
    """`asha` (successive halving) stops the worse trials early; `none` lets all of them finish."""
    trials: int = 12
    """Number of trials."""
    hours: float = 0.0
    """Time limit in hours, over all sessions together; 0 is no limit."""
    grace_epochs: int = 2
    """Epochs before `asha` may stop a trial."""
    reduction_factor: int = 3
    """`asha`: one trial in so many continues at each rung, for so many times the epochs."""
    concurrent: int = 0
    """Maximum number of trials at once; 0 is as many as fit when the sweep starts. A cluster that
    RAY_ADDRESS names may still grow to hold so many."""
    seed: int = 0
    """Seed of the search; all trials train with training.seed."""
    register_as: str = "mindeye"
    """Name of the best checkpoint in MLflow's registry; empty registers nothing."""
    alias: str = "champion"
    """Alias in MLflow's registry that the best checkpoint gets."""
    resume: bool = False
    """Continue the sweep in the run folder, with the settings of its start."""
    overwrite: bool = False
    """Delete an earlier sweep in the run folder."""
    config: Annotated[ExperimentConfig, tyro.conf.arg(name="")] = field(
        default_factory=ExperimentConfig
    )
    """Run that the trials start from."""

    def __post_init__(self) -> None:
        least = {"trials": 1, "grace_epochs": 1, "reduction_factor": 2, "hours": 0, "concurrent": 0}
        for name, minimum in least.items():
            value = getattr(self, name)
            check(value >= minimum, name, value, f"at least {minimum}")
