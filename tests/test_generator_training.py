"""Training of the own generator. Oracles: the uninterrupted run; a network that has learnt."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mindeye_dist.generator_training import GeneratorTrainer, GeneratorTraining, PicturesInMemory
from mindeye_dist.models.small_generator import GeneratorConfig, PictureTransformer

SETTINGS = GeneratorTraining(
    epochs=3, batch_size=4, warmup_steps=2, save_every_steps=5, average_decay=0.9
)
CONFIG = GeneratorConfig(patch=4, width=32, depth=1, heads=2)


def pictures(count=16):
    """Flat pictures whose grey is told by their tokens."""
    draw = np.random.default_rng(0)
    grey = draw.uniform(-1, 1, count).astype(np.float16)
    latents = np.broadcast_to(grey[:, None, None, None], (count, 3, 8, 8)).copy()
    tokens = np.broadcast_to(grey[:, None, None], (count, 2, 4)).copy()
    return PicturesInMemory(latents, tokens)


def trainer(folder, settings=SETTINGS):
    torch.manual_seed(1)
    folder.mkdir(exist_ok=True)
    network = PictureTransformer(CONFIG, (3, 8, 8), (2, 4))
    return GeneratorTrainer(network, pictures(), settings, folder, about="sixteen greys")


def test_an_interrupted_training_ends_as_the_undisturbed_one(tmp_path):
    whole = trainer(tmp_path / "whole")
    losses = [row["loss"] for row in whole.run()]
    killed = trainer(tmp_path / "killed")
    for row in killed.run():
        if row["step"] == 7:  # two steps after the state was saved
            break
    resumed = trainer(tmp_path / "killed")
    resumed.load()
    assert resumed.step == 5
    assert [row["loss"] for row in resumed.run()] == losses[5:]
    for name, weight in whole.average.state_dict().items():
        assert torch.equal(weight, resumed.average.state_dict()[name]), name


def test_it_learns_what_the_tokens_tell(tmp_path):
    learner = trainer(tmp_path / "long", replace(SETTINGS, epochs=60, max_lr=3e-3))
    losses = [row["loss"] for row in learner.run()]
    assert np.mean(losses[-20:]) < 0.3 * np.mean(losses[:20])


def test_states_of_other_trainings_and_too_few_pictures_are_named(tmp_path):
    first = trainer(tmp_path / "run")
    next(iter(first.run()))
    first.save()
    with pytest.raises(ValueError, match="is of another training"):
        trainer(tmp_path / "run", replace(SETTINGS, max_lr=1e-3)).load()
    (tmp_path / "run/state.safetensors").write_bytes(b"cut short")
    with pytest.raises(ValueError, match="is no state of this training"):
        trainer(tmp_path / "run").load()
    with pytest.raises(ValueError, match="got 16 pictures, expected at least a batch of 99"):
        trainer(tmp_path / "run", replace(SETTINGS, batch_size=99))
