"""How a sweep searches: what is tried next, what is stopped early, and what mattered in the end."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
from ray import tune
from ray.tune.schedulers import (
    AsyncHyperBandScheduler,
    FIFOScheduler,
    PopulationBasedTraining,
    TrialScheduler,
)
from ray.tune.search import BasicVariantGenerator, Searcher
from ray.tune.search.optuna import OptunaSearch
from ray.tune.search.search_algorithm import SearchAlgorithm

from jobs.spaces import Domain, Space
from mindeye_dist.sweep import Trial, read_trials

SCORE, EPOCH = "score", "epoch"
Search = Literal["optuna", "random", "grid"]
Scheduler = Literal["asha", "pbt", "none"]
FEWEST_FOR_IMPORTANCE = 4
CHECK_EVERY = 20
"""Results between two looks at what a sweep has spent."""


def searcher(
    search: Search, space: Space, trials: int, seed: int, concurrent: int = 0
) -> tuple[Searcher | SearchAlgorithm, dict[str, Any]]:
    """Return Tune's searcher, and the space where Tune draws from it itself.

    Args:
        search: which.
        space: what is tried.
        trials: in all, of which the first are drawn by chance.
        seed: of the draws.
        concurrent: trials at once where Tune draws; it limits Optuna by itself.

    Raises:
        ValueError: a grid of a domain that has no finite number of values.
    """
    if search == "optuna":
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        # A third of the trials by chance, at most ten; those that run count as bad, so that two at
        # once do not try the same.
        sampler = optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=max(2, min(10, trials // 3)), constant_liar=True
        )
        distributions = {path: distribution(domain) for path, domain in space.items()}
        return OptunaSearch(distributions, metric=SCORE, mode="max", sampler=sampler), {}
    if search == "grid":
        if endless := [path for path, domain in space.items() if domain.kind != "choice"]:
            raise ValueError(f"--search grid: expected choices alone, got {', '.join(endless)}")
        own = {path: tune.grid_search(list(domain.values)) for path, domain in space.items()}
    else:
        own = {path: tune_domain(domain) for path, domain in space.items()}
    return BasicVariantGenerator(random_state=seed, max_concurrent=concurrent), own


def scheduler(
    kind: Scheduler, space: Space, *, epochs: int, grace: int, factor: int, seed: int
) -> TrialScheduler:
    """Return Tune's scheduler.

    Raises:
        ValueError: population-based training of a model's shape.
    """
    if kind == "asha":
        # At the last epoch a trial ends by itself, after its last checkpoint.
        return AsyncHyperBandScheduler(
            time_attr=EPOCH,
            metric=SCORE,
            mode="max",
            max_t=epochs,
            grace_period=grace,
            reduction_factor=factor,
            stop_last_trials=False,
        )
    if kind == "none":
        return FIFOScheduler()
    if shapes := [path for path in space if path.startswith("model.") and "dropout" not in path]:
        raise ValueError(
            f"--scheduler pbt: takes over another trial's weights, so that {', '.join(shapes)} "
            "cannot be in its space"
        )
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - where Tune draws from
    return PopulationBasedTraining(
        time_attr=EPOCH,
        metric=SCORE,
        mode="max",
        perturbation_interval=grace,
        hyperparam_mutations={path: tune_domain(domain) for path, domain in space.items()},
    )


def tune_domain(domain: Domain) -> Any:
    """Return a domain as Tune has it."""
    if domain.kind == "choice":
        return tune.choice(list(domain.values))
    low, high = domain.values
    if domain.kind == "integer":
        return tune.randint(low, high + 1)
    return tune.loguniform(low, high) if domain.kind == "log_uniform" else tune.uniform(low, high)


def distribution(domain: Domain) -> optuna.distributions.BaseDistribution:
    """Return a domain as Optuna has it."""
    if domain.kind == "choice":
        return optuna.distributions.CategoricalDistribution(domain.values)
    low, high = domain.values
    if domain.kind == "integer":
        return optuna.distributions.IntDistribution(low, high)
    return optuna.distributions.FloatDistribution(low, high, log=domain.kind == "log_uniform")


class Stop(tune.Stopper):
    """Stops trials that no longer improve, and the sweep when its GPU hours are spent.

    Args:
        folder: of the trials, whose journals say what was spent.
        patience: epochs without a better score; 0 waits for ever.
        gpu_hours: of all trials; 0 is without limit.
        gpus: that a trial takes.
    """

    def __init__(self, folder: Path, patience: int, gpu_hours: float, gpus: float) -> None:
        self._folder, self._patience = folder, patience
        self._gpu_hours, self._gpus = gpu_hours, gpus
        self._best: dict[str, tuple[float, int]] = {}
        self._results = 0

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Return whether a trial has gone long enough without a better score."""
        self._results += 1
        score, epoch = result[SCORE], result[EPOCH]
        best, since = self._best.get(trial_id, (float("-inf"), epoch))
        if score > best:
            self._best[trial_id] = (score, epoch)
            return False
        return 0 < self._patience <= epoch - since

    def stop_all(self) -> bool:
        """Return whether the GPU hours are spent."""
        if not self._gpu_hours or self._results % CHECK_EVERY:
            return False
        spent = sum(trial.span for trial in read_trials(self._folder)) / 3600
        return spent * self._gpus >= self._gpu_hours


def importance(space: Space, trials: Sequence[Trial]) -> dict[str, float]:
    """Return each setting's share in the variance of the best scores, by fANOVA.

    Hutter et al. (2014), as Optuna has it. Empty where too few trials were scored, or all alike.
    """
    study = optuna.create_study(direction="maximize")
    distributions = {path: distribution(domain) for path, domain in space.items()}
    scored = [(trial, trial.best.score) for trial in trials if trial.best]
    for trial, score in scored:
        own = {path: trial.params[path] for path in space}
        study.add_trial(
            optuna.trial.create_trial(params=own, distributions=distributions, value=score)
        )
    if len(scored) < FEWEST_FOR_IMPORTANCE or len({score for _, score in scored}) == 1:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))
