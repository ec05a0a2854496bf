"""Memory arithmetic: closed forms by hand, and what autograd keeps."""

import pytest
import torch
from torch import nn

from mindeye_dist.model_config import BackboneConfig, ModelConfig, PriorConfig, ProjectorConfig
from mindeye_dist.models.mindeye import MindEye, PriorDraw
from mindeye_dist.training.sizing import (
    AUTOCAST,
    BF16,
    BUCKET,
    Plan,
    Sizes,
    backward,
    kept_values,
    measure,
    parts,
    peak,
    smallest_card,
    state,
    step,
)

MILLION = 10**6
SIZES = Sizes(parameters=8 * MILLION, matrices=7 * MILLION, largest=5 * MILLION)
CONFIG = ModelConfig(
    backbone=BackboneConfig(hidden=96, num_blocks=3),
    projector=ProjectorConfig(hidden=80),
    prior=PriorConfig(depth=3, heads=4, head_dim=32, feedforward_factor=3),
)


def plan(stage, gpus=4, precision=AUTOCAST, offload=False):
    return Plan(stage=stage, gpus=gpus, precision=precision, offload=offload)


def test_counts_of_a_model():
    model = nn.Sequential(nn.Linear(10, 20), nn.LayerNorm(20))
    assert measure(model) == Sizes(parameters=260, matrices=200, largest=200)
    assert parts(model) == {"0": 220, "1": 40}


@pytest.mark.parametrize(
    ("stage", "precision", "per_parameter"),
    [
        # Bytes a parameter over 4 GPUs: weights, gradients, optimizer.
        (0, AUTOCAST, (4, 4, 8)),
        (1, AUTOCAST, (4, 4, 12 / 4)),
        (2, AUTOCAST, (4, 4 / 4, 12 / 4)),
        (3, AUTOCAST, (4 / 4, 4 / 4, 8 / 4)),
        (0, BF16, (2, 2, 4)),
        (1, BF16, (2, 2, 6 / 4)),
        (2, BF16, (2, 2 / 4, 6 / 4)),
        (3, BF16, (2 / 4, 2 / 4, 4 / 4)),
    ],
)
def test_state_by_hand(stage, precision, per_parameter):
    got = state(SIZES, plan(stage, precision=precision))
    expected = [round(8 * MILLION * each) for each in per_parameter]
    assert [got.weights, got.gradients, got.optimizer, got.host] == [*expected, 0]
    assert got.gpu == sum(expected)


def test_offload_moves_the_optimizer_to_the_host():
    for stage in (1, 2, 3):
        got = state(SIZES, plan(stage, offload=True))
        assert (got.optimizer, got.host) == (0, 8 * MILLION * 12 // 4)
    assert step(SIZES, plan(2, offload=True)) == 0


def test_backward_by_hand():
    """Whole tensors: none (0, 1), the largest gradient (2), its weights too (3)."""
    base = 1000 + 7 * MILLION * 2
    assert backward(SIZES, plan(0, gpus=1), 1000) == base
    assert backward(SIZES, plan(0), 1000) == base + 8 * MILLION * 4
    assert backward(SIZES, plan(1), 1000) == base + BUCKET * 4
    assert backward(SIZES, plan(2), 1000) == base + BUCKET * 4 + 5 * MILLION * 4
    assert backward(SIZES, plan(3), 1000) == base + BUCKET * 4 + 5 * MILLION * 8
    assert backward(SIZES, plan(3, precision=BF16), 0) == BUCKET * 2 + 5 * MILLION * 4


def test_step_and_peak_by_hand():
    assert step(SIZES, plan(0)) == 2 * 5 * MILLION * 4
    assert step(SIZES, plan(2)) == 2 * 2 * MILLION * 4
    assert peak(SIZES, plan(0, gpus=1), 0) == 8 * MILLION * 16 + 2 * 5 * MILLION * 4
    assert peak(SIZES, plan(0, gpus=1), 10**9) == 8 * MILLION * 16 + 10**9 + 7 * MILLION * 2


def test_more_gpus_never_need_more():
    """The state of every stage shrinks or stays; uneven shards are rounded up."""
    for stage in (0, 1, 2, 3):
        sizes = [state(SIZES, plan(stage, gpus)).gpu for gpus in (1, 2, 3, 7, 8)]
        assert sizes == sorted(sizes, reverse=True)
    odd = Sizes(parameters=10, matrices=0, largest=10)
    assert state(odd, plan(3, 4)).weights == 3 * 4


def test_kept_values_by_hand():
    """A linear layer keeps its input, ReLU its output, a shared tensor counts once."""
    first, last = nn.Linear(10, 20), nn.Linear(20, 5)
    with torch.device("meta"):
        model = nn.Sequential(first, nn.ReLU(), last).to("meta")
        voxels = torch.empty(3, 10)
        assert kept_values(model, lambda: model(voxels)) == 3 * 10 + 3 * 20


def test_the_meta_device_keeps_what_the_cpu_does():
    """Oracle: the same pass on real tensors."""
    kept = []
    for device in ("cpu", "meta"):
        with torch.device(device):
            model = MindEye(CONFIG, 500, 40, 64)
            voxels, tokens = torch.zeros(1, 500), torch.zeros(1, 40, 64)
            no, first = torch.zeros(1, dtype=torch.bool), torch.zeros(1, dtype=torch.long)
            draw = PriorDraw(timestep=first, noise=tokens, drop_condition=no, drop_tokens=no)
            kept.append(kept_values(model, lambda m=model, a=(voxels, tokens, draw): m(*a)))
    assert kept[0] == pytest.approx(kept[1], rel=0.02)


def test_cards():
    assert [smallest_card(gb * 10**9) for gb in (1, 24, 25, 41, 80, 81)] == [
        24, 24, 40, 48, 80, None,
    ]  # fmt: skip


def test_plans_that_do_not_exist_are_named():
    with pytest.raises(ValueError, match="gpus: got 0, expected at least 1"):
        plan(0, gpus=0)
    with pytest.raises(ValueError, match="offload: got ZeRO 0, expected 1 to 3"):
        plan(0, offload=True)
