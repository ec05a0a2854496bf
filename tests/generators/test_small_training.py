"""Training on pictures in memory. Oracles: the uninterrupted run; a network that has learnt."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mindeye_dist.generators.config import PictureTraining
from mindeye_dist.generators.small_training import PictureTrainer

SETTINGS = PictureTraining(
    epochs=3, batch_size=4, warmup_steps=2, save_every_steps=5, average_decay=0.9
)
GREYS = np.random.default_rng(0).uniform(-1, 1, 16).astype(np.float32)


def loss(network, rows, noise):
    """A grey is to be told from its noisy double."""
    grey = torch.from_numpy(GREYS[rows])[:, None]
    seen = 2 * grey + 0.1 * torch.randn(grey.shape, generator=noise)
    return (network(seen) - grey).square().mean()


def trainer(folder, settings=SETTINGS, count=16):
    torch.manual_seed(1)
    folder.mkdir(exist_ok=True)
    layers = torch.nn.Linear(1, 8), torch.nn.SiLU(), torch.nn.Linear(8, 1)
    network = torch.nn.Sequential(*layers)
    return PictureTrainer(network, loss, count, settings, folder, name="greys", about="sixteen")


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


def test_it_learns(tmp_path):
    learner = trainer(tmp_path / "long", replace(SETTINGS, epochs=60, max_lr=3e-2))
    losses = [row["loss"] for row in learner.run()]
    assert np.mean(losses[-20:]) < 0.1 * np.mean(losses[:20])


def test_every_epoch_sees_every_picture_once(tmp_path):
    """Oracle: the numbers that the loss was asked for."""
    asked = []

    def counted(network, rows, noise):
        asked.append(rows)
        return loss(network, rows, noise)

    learner = trainer(tmp_path / "run")
    learner.loss = counted
    list(learner.run())
    for epoch in np.split(np.concatenate(asked), SETTINGS.epochs):
        assert sorted(epoch) == list(range(len(GREYS)))


def test_states_of_other_trainings_and_too_few_pictures_are_named(tmp_path):
    first = trainer(tmp_path / "run")
    next(iter(first.run()))
    first.save()
    with pytest.raises(ValueError, match="is of another training"):
        trainer(tmp_path / "run", replace(SETTINGS, max_lr=1e-3)).load()
    with pytest.raises(ValueError, match="of 16 pictures on cpu.*expected .* of 15 pictures"):
        trainer(tmp_path / "run", count=15).load()
    (tmp_path / "run/state.safetensors").write_bytes(b"cut short")
    with pytest.raises(ValueError, match="is no state of this training"):
        trainer(tmp_path / "run").load()
    with pytest.raises(ValueError, match="greys: batch_size: got 99, expected at most the 16"):
        trainer(tmp_path / "run", replace(SETTINGS, batch_size=99))
    broken = trainer(tmp_path / "broken")
    broken.loss = lambda *given: loss(*given) * float("nan")
    with pytest.raises(ValueError, match="greys: step 0: the loss is nan"):
        next(broken.run())
