"""Config: strict, plain, and a round trip; the list of settings changes only on purpose."""

import json
from pathlib import Path

import pytest

from jobs.recipes import RECIPES, recipe
from mindeye_dist.config import ExperimentConfig
from mindeye_dist.strict import from_dict, override, paths, to_dict

FROZEN = Path(__file__).with_name("settings.txt")


def test_settings_are_frozen():
    """A new setting is a visible line in tests/settings.txt."""
    assert sorted(paths(ExperimentConfig())) == FROZEN.read_text().split()


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_round_trip_through_json(name):
    config = recipe(name)
    assert from_dict(ExperimentConfig, json.loads(json.dumps(to_dict(config)))) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer.lr": 0.1}, "optimizer.lr: no such setting"),
        ({"optimizer": 0.1}, "optimizer: no such setting"),
        ({"no.such.path": 0.1}, "no.such.path: no such setting"),
        ({"training.epochs": 1.5}, "training.epochs: got 1.5, expected int"),
        ({"training.epochs": True}, "training.epochs: got True, expected int"),
        ({"data.url": 3}, "data.url: got 3, expected str"),
        ({"compute.zero_stage": 4}, "compute.zero_stage: got 4, expected one of"),
        ({"loss.mixco_fraction": 1.2}, "loss.mixco_fraction: got 1.2, expected 0..1"),
        ({"loss.mixco_temperature": 0.0}, "loss.mixco_temperature: got 0.0"),
        ({"compute.num_workers": 33}, "compute.num_workers: got 33, expected at most"),
    ],
)
def test_what_does_not_fit_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        override(ExperimentConfig(), changes)


def test_unknown_and_missing_keys_of_a_file_are_named():
    values = to_dict(ExperimentConfig())
    with pytest.raises(ValueError, match="unknown config keys: data.colour"):
        from_dict(ExperimentConfig, {**values, "data": {**values["data"], "colour": "red"}})
    with pytest.raises(ValueError, match="missing config keys: loss"):
        from_dict(ExperimentConfig, {k: v for k, v in values.items() if k != "loss"})


def test_override_leaves_the_rest_and_the_original():
    config = ExperimentConfig()
    changed = override(config, {"optimizer.max_lr": 1, "run_dir": "elsewhere"})
    assert (changed.optimizer.max_lr, changed.run_dir) == (1.0, "elsewhere")
    assert changed.optimizer.eps == config.optimizer.eps
    assert config == ExperimentConfig()
