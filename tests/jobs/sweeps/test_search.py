"""Search algorithms and ASHA. Oracles: scores of known importance, an uninterrupted scheduler."""

import json
import random
from types import SimpleNamespace

import pytest

from jobs.sweeps.records import Point, TrialRecord
from jobs.sweeps.search import EPOCH, SCORE, asha, make_searcher, setting_importance
from jobs.sweeps.spaces import Domain, draw

SPACE = {
    "optimizer.max_lr": Domain("log_uniform", (1e-4, 1e-2)),
    "loss.mixco_fraction": Domain("uniform", (0.0, 1.0)),
    "model.backbone.hidden": Domain("choice", (16, 32)),
}


def trials(score, count=40):
    generator = random.Random(0)
    for number in range(count):
        params = draw(SPACE, generator)
        yield TrialRecord(
            name=str(number),
            params=params,
            epochs=1,
            curve=(Point(1, score(params), 1.0),),
            state="finished",
            error="",
            starts=1,
            span=1.0,
        )


def test_importance_is_that_of_the_only_setting_in_the_score():
    """The score is a function of one setting alone."""
    shares = setting_importance(SPACE, list(trials(lambda p: p["loss.mixco_fraction"] ** 2)))
    assert set(shares) == set(SPACE)
    assert shares["loss.mixco_fraction"] > 0.95
    assert sum(shares.values()) == pytest.approx(1)


def test_importance_is_empty_for_equal_scores_and_too_few_trials():
    assert setting_importance(SPACE, list(trials(lambda p: 0.5))) == {}
    assert setting_importance(SPACE, list(trials(lambda p: p["loss.mixco_fraction"], 3))) == {}


def test_optuna_proposes_from_the_space_and_repeats_for_a_seed():
    def suggest():
        searcher, domains = make_searcher("optuna", SPACE, 12, 5)
        assert domains == {}
        return [searcher.suggest(str(number)) for number in range(4)]

    first = suggest()
    assert first == suggest()
    assert all(1e-4 <= s["optimizer.max_lr"] <= 1e-2 for s in first)


def rung_trial(name):
    return SimpleNamespace(trial_id=name)


def test_asha_compares_with_trials_from_before_a_kill(tmp_path):
    """Oracle: the same results in one scheduler that was never killed."""
    early = {"a": [0.1, 0.5, 0.6], "b": [0.2, 0.4], "c": [0.3, 0.7]}
    late = {"d": [0.2, 0.45], "e": [0.2, 0.65]}

    def decisions(scheduler, curves):
        return [
            scheduler.on_trial_result(None, rung_trial(name), {EPOCH: i + 1, SCORE: score})
            for name, scores in curves.items()
            for i, score in enumerate(scores)
        ]

    whole = asha(tmp_path / "none", epochs=9, grace=2, factor=3)
    for name in (*early, *late):
        whole.on_trial_add(None, rung_trial(name))
    decisions(whole, early)
    for name, scores in early.items():
        write_journal(tmp_path / name, scores)
    again = asha(tmp_path, epochs=9, grace=2, factor=3)
    for name in (*early, *late):
        again.on_trial_add(None, rung_trial(name))
    expected = decisions(whole, late)
    assert decisions(again, late) == expected
    assert len(set(expected)) == 2  # one trial continues, one is stopped


def write_journal(folder, scores):
    folder.mkdir(parents=True)
    rows = [
        {"step": i, "time": float(i), "epoch": i, "val/score": score}
        for i, score in enumerate(scores)
    ]
    (folder / "journal.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
