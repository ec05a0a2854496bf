"""How a sweep searches: what is tried next, what is stopped early, and what mattered in the end."""

import logging
import random
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
from ray import tune
from ray.tune.schedulers import (
    AsyncHyperBandScheduler,
    PopulationBasedTraining,
    TrialScheduler,
)
from ray.tune.search import BasicVariantGenerator, Searcher
from ray.tune.search.optuna import OptunaSearch
from ray.tune.search.search_algorithm import SearchAlgorithm

from jobs.spaces import Domain, Space
from mindeye_dist.engine.journal import read_journal
from mindeye_dist.sweep import Trial, curve_of

SCORE, EPOCH = "score", "epoch"
Search = Literal["optuna", "random", "grid"]
Scheduler = Literal["asha", "pbt", "none"]
FEWEST_FOR_IMPORTANCE = 4


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


def halving(folder: Path, *, epochs: int, grace: int, factor: int) -> TrialScheduler:
    """Return successive halving (ASHA, Li et al. 2020).

    Args:
        folder: of the trials.
        epochs: of a whole trial.
        grace: epochs before the first comparison.
        factor: one in so many goes on.
    """
    # At the last epoch a trial ends by itself, after its last checkpoint.
    return Halving(
        folder,
        max_t=epochs,
        grace_period=grace,
        reduction_factor=factor,
        stop_last_trials=False,
    )


def population(space: Space, interval: int, seed: int) -> TrialScheduler:
    """Return population-based training (Jaderberg et al. 2017).

    Args:
        space: what is changed on the way.
        interval: epochs between two changes.
        seed: of the changes.

    Raises:
        ValueError: the space has a model's shape.
    """
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
        perturbation_interval=interval,
        # Neighbours in a list of choices; all else by factors, which may lead out of the domain.
        hyperparam_mutations={
            path: list(domain.values) if domain.kind == "choice" else tune_domain(domain)
            for path, domain in space.items()
        },
        custom_explore_fn=partial(within, space),
    )


def within(space: Space, params: dict[str, Any]) -> dict[str, Any]:
    """Return settings with each at the nearest value of its domain."""
    return {
        path: space[path].nearest(value) if path in space else value
        for path, value in params.items()
    }


def quiet_optuna() -> None:
    """Keep off the terminal what Optuna says at each result of a trial that was resumed."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("ray.tune.search.optuna").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", "The reported value is ignored", module="optuna")


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


class Halving(AsyncHyperBandScheduler):
    """Successive halving that knows the scores of trials from before a kill: Tune forgets them.

    Args:
        folder: of the trials.
        settings: of Tune's own.
    """

    def __init__(self, folder: Path, **settings: Any) -> None:
        super().__init__(time_attr=EPOCH, metric=SCORE, mode="max", **settings)
        self._folder = folder

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Take a trial, new or from before."""
        super().on_trial_add(tune_controller, trial)
        for point in curve_of(read_journal(str(self._folder / trial.trial_id))):
            known = {EPOCH: point.epoch, SCORE: point.score}
            super().on_trial_result(tune_controller, trial, known)


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
