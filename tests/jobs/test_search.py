"""Searchers, schedulers and stop rules. Oracles: functions whose answer is known."""

import random

import optuna
import pytest

from jobs.search import EPOCH, SCORE, Stop, importance, scheduler, searcher
from jobs.spaces import Domain, draw
from mindeye_dist.sweep import Point, Trial, describe_trial, note_event

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
    assert optuna.logging.get_verbosity() == optuna.logging.WARNING


def test_grids_are_of_choices():
    with pytest.raises(ValueError, match="optimizer.max_lr, loss.mixco_fraction"):
        searcher("grid", SPACE, 12, 0)
    _, own = searcher("grid", {"model.backbone.hidden": Domain("choice", (16, 32))}, 12, 0)
    assert own == {"model.backbone.hidden": {"grid_search": [16, 32]}}


def test_populations_have_one_shape():
    given = {"epochs": 9, "grace": 3, "factor": 3, "seed": 0}
    with pytest.raises(ValueError, match="model.backbone.hidden cannot be in its space"):
        scheduler("pbt", SPACE, **given)
    scheduler("pbt", {"optimizer.max_lr": SPACE["optimizer.max_lr"]}, **given)


def test_a_trial_stops_after_epochs_without_a_better_score(tmp_path):
    stop = Stop(tmp_path, patience=2, gpu_hours=0, gpus=0)
    scores = [0.1, 0.3, 0.2, 0.3, 0.4]
    said = [stop("a", {SCORE: s, EPOCH: e}) for e, s in enumerate(scores, 1)]
    assert said == [False, False, False, True, False]
    never = Stop(tmp_path, patience=0, gpu_hours=0, gpus=0)
    assert not any(never("a", {SCORE: 0.1, EPOCH: e}) for e in range(50))


def test_gpu_hours_are_those_that_trials_held(tmp_path, monkeypatch):
    """Two trials of half an hour on two GPUs each are two GPU hours."""
    for name in ("a", "b"):
        for event, now in (("started", 1000.0), ("ended", 1000.0 + 1800)):
            describe_trial(tmp_path / name, {}, 1)
            monkeypatch.setattr("time.time", lambda now=now: now)
            note_event(tmp_path / name, event)
    assert Stop(tmp_path, 0, gpu_hours=2.0, gpus=2.0).stop_all()
    assert not Stop(tmp_path, 0, gpu_hours=2.1, gpus=2.0).stop_all()
    assert not Stop(tmp_path, 0, gpu_hours=0.0, gpus=2.0).stop_all()
