"""Search spaces and their checks. Oracles: models that are built, and ranges of draws."""

import json
import random

import pytest

from jobs.opening.encoders import data_shapes
from jobs.recipes import RECIPES, config_flags, recipe
from jobs.sweeps.spaces import (
    SPACES,
    Domain,
    check_space,
    count_weights,
    draw,
    parse_space,
    read_space,
    space_values,
    trial_config,
)
from mindeye_dist.data.manifest import read_manifest
from mindeye_dist.models.build import build_model
from mindeye_dist.storage.store import Store
from mindeye_dist.strict import override


@pytest.fixture
def shapes(tiny_config):
    return data_shapes(read_manifest(Store(tiny_config.data.url)), tiny_config)


@pytest.mark.parametrize("name", [n for n in RECIPES if "lowlevel" not in n])
def test_named_spaces_fit_every_recipe(name):
    """Oracle: the config accepts every end and choice."""
    config = recipe(name)
    space = read_space("+".join(SPACES), config)
    for path, domain in space.items():
        for value in domain.values:
            override(config, {path: value})
    assert parse_space(json.loads(json.dumps(space_values(space))), "again") == space


def test_number_of_weights_is_that_of_the_built_model(tiny_config, shapes):
    """Oracle: the model itself, smallest and largest."""
    space = {"model.backbone.hidden": Domain("choice", (16, 64))}
    expected = [
        sum(w.numel() for w in build_model(trial_config(tiny_config, p), shapes).parameters())
        for p in ({"model.backbone.hidden": 16}, {"model.backbone.hidden": 64})
    ]
    assert check_space(space, tiny_config, shapes) == tuple(expected)
    assert count_weights(tiny_config, shapes) > 0


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (
            {"loss.mixco_fractoin": {"uniform": [0.1, 0.5]}},
            "no such setting; there is loss.mixco_fraction",
        ),
        ({"model.backbone.hidden": {"uniform": [16, 64.5]}}, "hidden: got 64.5, expected int"),
        ({"loss.mixco_fraction": {"uniform": [0.5, 1.5]}}, "got 1.5, expected 0..1"),
        ({"loss.mixco_temperature": {"choice": [0.01, "hot"]}}, "got 'hot', expected float"),
        ({"model.backbone.hidden": {"choice": [0, 16]}}, "hidden: got 0, expected at least 1"),
        ({"compute.num_workers": {"integer": [1, 2]}}, "compute.num_workers: cannot be swept"),
        ({"training.epochs": {"integer": [1, 2]}}, "training.epochs: cannot be swept"),
        ({"optimizer.max_lr": {"log_uniform": [0, 1]}}, "expected numbers above 0"),
        ({"optimizer.max_lr": {"uniform": [1, 0.1]}}, "expected two numbers, the smaller first"),
        ({"optimizer.max_lr": {"normal": [0, 1]}}, "expected one of uniform, log_uniform"),
        ({"training.global_batch_size": {"integer": [1.5, 4]}}, "expected two whole numbers"),
        ({"optimizer.max_lr": [0.1]}, "optimizer.max_lr: got"),
        ({}, "expected paths and their domains"),
    ],
)
def test_invalid_spaces_are_errors_that_name_the_cause(
    tiny_config, shapes, tmp_path, stored, message
):
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(stored))
    with pytest.raises(ValueError, match=message):
        check_space(read_space(str(file), tiny_config), tiny_config, shapes)


def test_settings_that_do_not_go_together_are_named(tiny_config, shapes):
    """Oracle: a warm-up longer than the run, at the upper end."""
    config = override(tiny_config, {"training.epochs": 6, "optimizer.warmup_epochs": 1.0})
    space = {"optimizer.warmup_epochs": Domain("uniform", (1.0, 7.0))}
    with pytest.raises(ValueError, match="at most training.epochs"):
        check_space(space, config, shapes)


def test_unknown_spaces_and_files_are_refused(tiny_config, tmp_path):
    with pytest.raises(ValueError, match="got speed, expected some of schedule, size, optim"):
        read_space("schedule+speed", tiny_config)
    with pytest.raises(ValueError, match="cannot be read"):
        read_space(str(tmp_path / "none.json"), tiny_config)


def test_draws_stay_in_their_domain():
    space = {
        "a": Domain("uniform", (-1.0, 1.0)),
        "b": Domain("log_uniform", (1e-3, 10.0)),
        "c": Domain("integer", (2, 4)),
        "d": Domain("choice", ("x", "y")),
    }
    drawn = [draw(space, random.Random(seed)) for seed in range(300)]
    assert all(-1 <= d["a"] <= 1 and 1e-3 <= d["b"] <= 10 for d in drawn)
    assert {d["c"] for d in drawn} == {2, 3, 4}
    assert {d["d"] for d in drawn} == {"x", "y"}
    assert 0.3 < sum(d["b"] < 0.1 for d in drawn) / 300 < 0.7  # half of the decades


def test_flags_of_a_trial_are_its_changed_settings():
    config = trial_config(recipe("demo-sweep"), {"loss.mixco_fraction": 0.25})
    assert config_flags("demo-sweep", config) == ["--loss.mixco-fraction", "0.25"]
