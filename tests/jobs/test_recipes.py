"""The published recipes carry the published numbers; oracle: figures read in the published code."""

import pytest

from jobs.recipes import PUBLISHED_SUBJECTS, RECIPES, recipe
from mindeye_dist.training.objective import HighLevelObjective
from mindeye_dist.training.schedule import one_cycle

STEPS_AN_EPOCH = 276  # 8,859 pictures in batches of 32


@pytest.mark.parametrize("subject", PUBLISHED_SUBJECTS)
def test_high_level(subject):
    config = recipe(f"mindeye1-{subject}")
    objective = HighLevelObjective(config, 1.0)
    assert (config.pipeline, config.data.subject) == ("highlevel", subject)
    assert config.training.epochs * STEPS_AN_EPOCH == 66_240
    assert 8859 // config.training.global_batch_size == STEPS_AN_EPOCH
    assert (objective.mixes(78), objective.mixes(79)) == (True, False)
    assert [objective.temperature(e) for e in (0, 79, 159, 239)] == pytest.approx(
        [0.006, 0.004, 0.00575, 0.0075]
    )
    warmup = config.optimizer.warmup_epochs / config.training.epochs
    rates = [one_cycle(config.optimizer, s, 66_240, warmup) for s in (0, 551, 66_239)]
    assert [lr for lr, _ in rates] == pytest.approx([1.2e-5, 3e-4, 1.2e-8])
    assert [momentum for _, momentum in rates] == pytest.approx([0.95, 0.85, 0.95])
    assert (config.loss.prior_weight, config.optimizer.weight_decay) == (30, 0.01)
    assert (config.model.backbone.input_dropout, config.model.backbone.block_dropout) == (0.5, 0.15)


@pytest.mark.parametrize("subject", PUBLISHED_SUBJECTS)
def test_low_level(subject):
    config = recipe(f"mindeye1-{subject}-lowlevel")
    assert (config.pipeline, config.data.subject) == ("lowlevel", subject)
    assert (config.training.epochs, config.training.global_batch_size) == (120, 8)
    assert (config.optimizer.max_lr, config.training.seed) == (5e-4, 0)
    assert config.optimizer.warmup_epochs == 2
    assert config.loss.latent_weight == pytest.approx(1 / 0.18215)
    assert (config.loss.map_weight, config.loss.map_temperature) == (0.1, 0.075)
    assert config.model.lowlevel.input_dropout == 0.5
    assert config.model.lowlevel.block_dropout == 0.25
    assert config.data.repeat_draw == "random_combine"


def test_every_published_subject_has_its_recipes():
    assert len([name for name in RECIPES if name.startswith("mindeye1-subj")]) == 8
