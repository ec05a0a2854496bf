"""Search algorithms: proposals of settings, early stopping, and the importance of each setting."""

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler
from ray.tune.search import BasicVariantGenerator, Searcher
from ray.tune.search.optuna import OptunaSearch
from ray.tune.search.search_algorithm import SearchAlgorithm

from jobs.sweeps.options import Search
from jobs.sweeps.records import TrialRecord, curve_of
from jobs.sweeps.spaces import Domain, Space
from mindeye_dist.runs.journal import read_journal

SCORE, EPOCH = "score", "epoch"
MIN_TRIALS_FOR_IMPORTANCE = 4


def make_searcher(
    search: Search, space: Space, trials: int, seed: int, concurrent: int = 0
) -> tuple[Searcher | SearchAlgorithm, dict[str, Any]]:
    """Return Tune's search algorithm, and the space as Tune draws from it (empty for Optuna).

    Args:
        search: name of the algorithm.
        space: the search space.
        trials: number of trials; Optuna draws the first third of them at random, two to ten.
        seed: seed of the draws.
        concurrent: maximum number of trials at once, for random search; 0 is no limit.
    """
    if search == "random":
        domains = {path: to_tune(domain) for path, domain in space.items()}
        return BasicVariantGenerator(random_state=seed, max_concurrent=concurrent), domains
    # constant_liar: trials that still run count as bad, so that two at once differ.
    sampler = optuna.samplers.TPESampler(
        seed=seed, n_startup_trials=max(2, min(10, trials // 3)), constant_liar=True
    )
    distributions = {path: to_optuna(domain) for path, domain in space.items()}
    return OptunaSearch(distributions, metric=SCORE, mode="max", sampler=sampler), {}


def asha(folder: Path, *, epochs: int, grace: int, factor: int) -> TrialScheduler:
    """Return asynchronous successive halving (ASHA, Li et al. 2020).

    Args:
        folder: folder of the trials.
        epochs: epochs of a whole trial.
        grace: epochs before the first comparison.
        factor: one trial in so many continues at each comparison.
    """
    # stop_last_trials: after its last epoch a trial ends by itself, and saves a checkpoint first.
    return RememberingAsha(
        folder,
        max_t=epochs,
        grace_period=grace,
        reduction_factor=factor,
        stop_last_trials=False,
    )


class RememberingAsha(AsyncHyperBandScheduler):
    """ASHA that also compares with scores from before a resume, which Tune forgets.

    Args:
        folder: folder of the trials.
        settings: arguments of Tune's scheduler.
    """

    def __init__(self, folder: Path, **settings: Any) -> None:
        super().__init__(time_attr=EPOCH, metric=SCORE, mode="max", **settings)
        self._folder = folder

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Add a trial, with the scores in its journal."""
        super().on_trial_add(tune_controller, trial)
        for point in curve_of(read_journal(str(self._folder / trial.trial_id))):
            result = {EPOCH: point.epoch, SCORE: point.score}
            super().on_trial_result(tune_controller, trial, result)


def quiet_optuna() -> None:
    """Silence Optuna's warnings about repeated results, one for each result of a resumed trial."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("ray.tune.search.optuna").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", "The reported value is ignored", module="optuna")


def to_tune(domain: Domain) -> Any:
    """Convert a domain to Ray Tune's."""
    if domain.kind == "choice":
        return tune.choice(list(domain.values))
    low, high = domain.values
    if domain.kind == "integer":
        return tune.randint(low, high + 1)
    return tune.loguniform(low, high) if domain.kind == "log_uniform" else tune.uniform(low, high)


def to_optuna(domain: Domain) -> optuna.distributions.BaseDistribution:
    """Convert a domain to Optuna's distribution."""
    if domain.kind == "choice":
        return optuna.distributions.CategoricalDistribution(domain.values)
    low, high = domain.values
    if domain.kind == "integer":
        return optuna.distributions.IntDistribution(low, high)
    return optuna.distributions.FloatDistribution(low, high, log=domain.kind == "log_uniform")


def setting_importance(space: Space, trials: Sequence[TrialRecord]) -> dict[str, float]:
    """Return each setting's share of the variance of the trials' best scores, by fANOVA.

    Hutter et al. (2014), Optuna's implementation. Empty for fewer than four scored trials, and
    where all scores are equal.
    """
    scored = [(trial, trial.best_point.score) for trial in trials if trial.best_point]
    if len(scored) < MIN_TRIALS_FOR_IMPORTANCE or len({score for _, score in scored}) == 1:
        return {}
    study = optuna.create_study(direction="maximize")
    distributions = {path: to_optuna(domain) for path, domain in space.items()}
    for trial, score in scored:
        params = {path: trial.params[path] for path in space}
        study.add_trial(
            optuna.trial.create_trial(params=params, distributions=distributions, value=score)
        )
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))
