"""The 257x768 model's prior where the reference vectors do not reach: tokens of odd width."""

import math

import pytest
import torch

from mindeye_dist.model_config import PriorConfig
from mindeye_dist.models.prior import Prior, sinusoidal_embedding


def test_the_time_of_tokens_of_odd_width():
    """Oracle: by hand."""
    first, second = 3.0, 3.0 / 10000
    wanted = [math.sin(first), math.sin(second), math.cos(first), math.cos(second), 0.0]
    got = sinusoidal_embedding(torch.tensor([3]), 5)
    torch.testing.assert_close(got, torch.tensor([wanted]))


@pytest.mark.parametrize("dim", [2, 3, 7])
def test_tokens_of_any_width_are_predicted(dim):
    torch.manual_seed(0)
    prior = Prior(PriorConfig(depth=1, heads=2, head_dim=32, timesteps=5), 4, dim)
    tokens = torch.randn(3, 4, dim)
    clean = prior(tokens, torch.tensor([0, 2, 4]), tokens)
    assert clean.shape == tokens.shape
    assert torch.isfinite(clean).all()
