"""OneCycle against torch's scheduler."""

import pytest
import torch

from mindeye_dist.config import OptimizerConfig
from mindeye_dist.training.schedule import one_cycle


@pytest.mark.parametrize(("total", "warmup"), [(240, 2 / 240), (1000, 0.1), (37, 0.3)])
def test_one_cycle_is_torchs(total, warmup):
    config = OptimizerConfig()
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([parameter], lr=1.0, betas=(0.9, 0.999))
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        config.max_lr,
        total_steps=total,
        pct_start=warmup,
        div_factor=25,
        final_div_factor=1000,
    )
    for step in range(total):
        lr, momentum = one_cycle(config, step, total, warmup)
        group = optimizer.param_groups[0]
        assert lr == pytest.approx(group["lr"], rel=1e-9)
        assert momentum == pytest.approx(group["betas"][0], rel=1e-9)
        optimizer.step()
        if step < total - 1:
            scheduler.step()


def test_published_run():
    """The figures of the published run: 66,240 steps, peak at step 552."""
    config = OptimizerConfig()
    rates = [one_cycle(config, step, 66_240, 2 / 240)[0] for step in (0, 551, 66_239)]
    assert rates == [pytest.approx(1.2e-5), pytest.approx(3e-4), pytest.approx(1.2e-8)]
