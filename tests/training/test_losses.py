"""Losses against slow NumPy loops written from the equations."""

import numpy as np
import pytest
import torch

from mindeye_dist.training.losses import bimixco, mix, soft_clip, soft_temperature


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def loop_cross_entropy(logits, weights):
    """Return mean_i -sum_j weights[i, j] * log softmax_j logits[i, j], entry by entry."""
    total = 0.0
    for row, weight in zip(logits, weights, strict=True):
        normaliser = np.log(sum(np.exp(value - row.max()) for value in row)) + row.max()
        total -= sum(w * (value - normaliser) for w, value in zip(weight, row, strict=True))
    return total / len(logits)


@pytest.fixture
def pairs():
    generator = np.random.default_rng(0)
    targets = generator.standard_normal((7, 30))
    return targets + generator.standard_normal((7, 30)), targets


@pytest.mark.parametrize("partner", [[1, 2, 3, 4, 5, 6, 0], [0, 2, 1, 3, 5, 4, 6]])
def test_bimixco(pairs, partner):
    """The second permutation has fixed points, where both weights fall on the diagonal."""
    preds, targets = pairs
    coef = np.random.default_rng(1).random(7)
    weights = np.zeros((7, 7))
    for i in range(7):
        weights[i, i] += coef[i]
        weights[i, partner[i]] += 1 - coef[i]
    logits = unit(preds) @ unit(targets).T / 0.1
    expected = (loop_cross_entropy(logits, weights) + loop_cross_entropy(logits.T, weights.T)) / 2
    ours = bimixco(
        torch.from_numpy(preds).float(),
        torch.from_numpy(targets).float(),
        torch.tensor(partner),
        torch.from_numpy(coef).float(),
        0.1,
    )
    np.testing.assert_allclose(ours.item(), expected, rtol=1e-5)


def test_soft_clip(pairs):
    preds, targets = pairs
    logits = unit(preds) @ unit(targets).T / 0.2
    teacher = np.exp(unit(targets) @ unit(targets).T / 0.2)
    labels = teacher / teacher.sum(axis=1, keepdims=True)
    expected = (loop_cross_entropy(logits, labels) + loop_cross_entropy(logits.T, labels)) / 2
    ours = soft_clip(torch.from_numpy(preds).float(), torch.from_numpy(targets).float(), 0.2)
    np.testing.assert_allclose(ours.item(), expected, rtol=1e-5)


def test_mixing_leaves_its_input_alone():
    voxels = torch.arange(6.0).reshape(3, 2)
    mixed = mix(voxels, torch.tensor([1, 2, 0]), torch.tensor([1.0, 0.5, 0.0]))
    assert mixed.tolist() == [[0, 1], [3, 4], [0, 1]]
    assert voxels.tolist() == [[0, 1], [2, 3], [4, 5]]


def test_soft_temperature_ends():
    """Closed form: the ends, and the middle of a half cosine."""
    assert soft_temperature(0.004, 0.0075, 0, 161) == pytest.approx(0.004)
    assert soft_temperature(0.004, 0.0075, 80, 161) == pytest.approx(0.00575)
    assert soft_temperature(0.004, 0.0075, 160, 161) == pytest.approx(0.0075)
    assert soft_temperature(0.004, 0.0075, 0, 1) == 0.004
