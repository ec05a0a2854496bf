"""Searchers and schedulers. Oracles: functions whose answer is known."""

import json
import random
from types import SimpleNamespace

import optuna
import pytest

from jobs.search import (
    EPOCH,
    SCORE,
    distribution,
    halving,
    importance,
    population,
    searcher,
    within,
)
from jobs.spaces import Domain, draw
from mindeye_dist.sweep import Point, Trial

SPACE = {
    "optimizer.max_lr": Domain("log_uniform", (1e-4, 1e-2)),
    "loss.mixco_fraction": Domain("uniform", (0.0, 1.0)),
    "model.backbone.hidden": Domain("choice", (16, 32)),
}


def trials(score, count=40):
    generator = random.Random(0)
    for number in range(count):
        params = draw(SPACE, generator)
        yield Trial(
            name=str(number),
            params=params,
            epochs=1,
            curve=(Point(1, score(params), 1.0),),
            state="finished",
            error="",
            starts=1,
            span=1.0,
        )


def test_importance_finds_the_setting_that_matters():
    """The score is a function of one setting alone."""
    shares = importance(SPACE, list(trials(lambda p: p["loss.mixco_fraction"] ** 2)))
    assert set(shares) == set(SPACE)
    assert shares["loss.mixco_fraction"] > 0.95
    assert sum(shares.values()) == pytest.approx(1)


def test_importance_of_nothing_is_nothing():
    assert importance(SPACE, list(trials(lambda p: 0.5))) == {}
    assert importance(SPACE, list(trials(lambda p: p["loss.mixco_fraction"], 3))) == {}


def test_optuna_searches_the_space_and_repeats_itself():
    def suggested():
        algorithm, own = searcher("optuna", SPACE, 12, 5)
        assert own == {}
        return [algorithm.suggest(str(number)) for number in range(4)]

    first = suggested()
    assert first == suggested()
    assert all(1e-4 <= s["optimizer.max_lr"] <= 1e-2 for s in first)


def test_grids_are_of_choices():
    with pytest.raises(ValueError, match="optimizer.max_lr, loss.mixco_fraction"):
        searcher("grid", SPACE, 12, 0)
    _, own = searcher("grid", {"model.backbone.hidden": Domain("choice", (16, 32))}, 12, 0)
    assert own == {"model.backbone.hidden": {"grid_search": [16, 32]}}


def test_populations_have_one_shape():
    with pytest.raises(ValueError, match="model.backbone.hidden cannot be in its space"):
        population(SPACE, 3, 0)
    population({"optimizer.max_lr": SPACE["optimizer.max_lr"]}, 3, 0)


def test_a_population_stays_within_its_space():
    """A factor of 1.2 over and over; Optuna's own domain is the oracle of what belongs to it."""
    params = {"optimizer.max_lr": 9e-3, "loss.mixco_fraction": 0.9, "model.backbone.hidden": 16}
    grown = {path: value * 1.2**5 for path, value in params.items()} | {
        "model.backbone.hidden": 32,
        "other": 7,
    }
    kept = within(SPACE, grown)
    assert kept == {
        "optimizer.max_lr": 1e-2,
        "loss.mixco_fraction": 1.0,
        "model.backbone.hidden": 32,
        "other": 7,
    }
    del kept["other"]
    distributions = {path: distribution(domain) for path, domain in SPACE.items()}
    optuna.trial.create_trial(params=kept, distributions=distributions, value=0.0)


def rung_trial(name):
    return SimpleNamespace(trial_id=name)


def test_halving_knows_the_trials_from_before_a_kill(tmp_path):
    """Oracle: the same results told to one scheduler that was never killed."""
    early = {"a": [0.1, 0.5, 0.6], "b": [0.2, 0.4], "c": [0.3, 0.7]}
    late = {"d": [0.2, 0.45], "e": [0.2, 0.65]}

    def decisions(scheduler, curves):
        return [
            scheduler.on_trial_result(None, rung_trial(name), {EPOCH: i + 1, SCORE: score})
            for name, scores in curves.items()
            for i, score in enumerate(scores)
        ]

    whole = halving(tmp_path / "none", epochs=9, grace=2, factor=3)
    for name in (*early, *late):
        whole.on_trial_add(None, rung_trial(name))
    decisions(whole, early)
    for name, scores in early.items():
        write_journal(tmp_path / name, scores)
    again = halving(tmp_path, epochs=9, grace=2, factor=3)
    for name in (*early, *late):
        again.on_trial_add(None, rung_trial(name))
    expected = decisions(whole, late)
    assert decisions(again, late) == expected
    assert len(set(expected)) == 2  # one goes on, one is stopped


def write_journal(folder, scores):
    folder.mkdir(parents=True)
    rows = [
        {"step": i, "time": float(i), "epoch": i, "val/score": score}
        for i, score in enumerate(scores)
    ]
    (folder / "journal.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
