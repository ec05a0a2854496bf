"""The low-level network's shapes; its numbers are checked in tests/reference."""

import pytest
import torch

from mindeye_dist.model_config import LowLevelConfig
from mindeye_dist.models.lowlevel import LowLevel

SMALL = LowLevelConfig(
    hidden=16,
    num_blocks=2,
    map_channels=6,
    upsampler_channels=(8, 12),
    head_hidden=10,
)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return LowLevel(SMALL, 9, (3, 8, 12), 7)


def test_shapes_follow_latents_and_teacher(model):
    outputs = model(torch.randn(2, 9))
    assert outputs.latents.shape == (2, 3, 8, 12)
    assert outputs.feature_map.shape == (2, 4 * 6, 7)


def test_every_parameter_learns(model):
    outputs = model(torch.randn(2, 9))
    (outputs.latents.square().sum() + outputs.feature_map.square().sum()).backward()
    still = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # A constant added to all keys leaves the attention as it is.
    assert set(still) <= {"upsampler.mid_block.attentions.0.to_k.bias"}


def test_feature_map_is_row_by_row(model):
    """Oracle: the head's convolutions are linear maps of one cell, up to the norms."""
    model.eval()
    model.head = torch.nn.Identity()
    voxels = torch.randn(1, 9)
    cells = model(voxels).feature_map[0]
    grid = model._map(voxels)[0]
    assert torch.equal(cells[1 * 6 + 4], grid[:, 1, 4])


def test_groups_are_32_where_they_divide(model):
    assert model.upsampler.conv_norm_out.num_groups == 4
    with torch.device("meta"):
        wide = LowLevel(LowLevelConfig(hidden=8), 9, (4, 64, 64), 7)
    assert wide.upsampler.conv_norm_out.num_groups == 32


@pytest.mark.parametrize("sides", [(8, 7), (1, 8)])
def test_latents_that_no_map_reaches(sides):
    with pytest.raises(ValueError, match="expected multiples of 2 for an upsampler of 2 stages"):
        LowLevel(SMALL, 9, (3, *sides), 7)
