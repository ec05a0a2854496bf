"""Not a test: one step of BiMixCo as one of several workers; rank 0 saves loss and gradients."""

from dataclasses import replace

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from mindeye_dist.batch import Batch
from mindeye_dist.config import ExperimentConfig, LossConfig
from mindeye_dist.distributed import local_slice, rank, world_size
from mindeye_dist.models.mindeye import Outputs
from mindeye_dist.training.draws import Mixing
from mindeye_dist.training.objective import HighLevelObjective

COUNT, VOXELS, TOKENS, DIM = 13, 20, 3, 8


def take_step(file: str) -> None:
    """Take the step and save what one process would have on the joined batch."""
    generator = torch.Generator().manual_seed(0)
    voxels = torch.randn(COUNT, VOXELS, generator=generator)
    tokens = torch.randn(COUNT, TOKENS, DIM, generator=generator)
    weights = torch.randn(VOXELS, TOKENS * DIM, generator=generator).requires_grad_()
    # One whole cycle: every partner is another sample, most of them of another rank.
    partner = torch.arange(COUNT).roll(5)
    mixing = Mixing(mix_partner=partner, mix_coef=torch.rand(COUNT, generator=generator))
    own = local_slice(COUNT, rank(), world_size())
    batch = Batch(
        voxels=voxels[own],
        targets={"clip_tokens": tokens[own]},
        keys=tuple(str(n) for n in range(own.start, own.stop)),
        step=0,
        start=own.start,
        global_size=COUNT,
    )
    config = replace(ExperimentConfig(), loss=LossConfig(mixco_fraction=1.0, prior_weight=0.5))
    objective = HighLevelObjective(config, 2.0)
    batch = objective.mix(batch, mixing)
    made = (batch.voxels @ weights).unflatten(1, (TOKENS, DIM))
    losses = objective(Outputs(projected=made, pred_x_0=0.1 * made), batch, 0, mixing)
    losses["total"].backward()
    gradient = weights.grad
    if world_size() > 1:  # as backends do
        dist.all_reduce(gradient)
        gradient /= world_size()
    if rank() == 0:
        save_file({"gradient": gradient, **{k: v.detach() for k, v in losses.items()}}, file)
