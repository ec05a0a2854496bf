"""Random draws of a step: pure functions of (seed, step, position in the global batch).

Dropout is drawn in the trainer: its masks are a function of (seed, step, rank).
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mindeye_dist.batch import Batch
from mindeye_dist.config import LossConfig
from mindeye_dist.model_config import PriorConfig
from mindeye_dist.models.mindeye import PriorDraw
from mindeye_dist.randomness import numpy_generator, torch_generator


@dataclass(frozen=True)
class Mixing:
    """Partners and coefficients of MixCo for a whole global batch.

    Attributes:
        mix_partner: position of each sample's partner.
        mix_coef: weight of the sample itself, 1 if it is not mixed.
    """

    mix_partner: Int[Tensor, " batch"]
    mix_coef: Float[Tensor, " batch"]


def draw_mixing(config: LossConfig, seed: int, batch: Batch) -> Mixing:
    """Draw partners and coefficients: Beta(alpha, alpha), 1 for unmixed samples (section 3.3)."""
    count = batch.global_size
    generator = numpy_generator(seed, "mixing", batch.step)
    partner = generator.permutation(count)
    coef = generator.beta(config.mix_alpha, config.mix_alpha, count)
    mixed = generator.random(count) < config.mix_probability
    device = batch.voxels.device
    return Mixing(
        mix_partner=torch.from_numpy(partner).to(device),
        mix_coef=torch.from_numpy(np.where(mixed, coef, 1.0)).float().to(device),
    )


def no_mixing(batch: Batch) -> Mixing:
    """Return the mixing that leaves every sample as it is."""
    device = batch.voxels.device
    count = batch.global_size
    own = torch.arange(count, device=device)
    return Mixing(own, torch.ones(count, device=device))


def draw_prior(config: PriorConfig, seed: int, batch: Batch, purpose: str) -> PriorDraw:
    """Draw timesteps, noise and condition dropout of the prior's loss for this rank's samples.

    Args:
        config: number of timesteps, and probability of condition dropout.
        seed: the run's seed.
        batch: this rank's part of the global batch.
        purpose: "train", or "validate" without condition dropout.
    """
    device = batch.voxels.device
    own = slice(batch.start, batch.start + len(batch.keys))
    generator = numpy_generator(seed, "prior", purpose, batch.step)
    timestep = generator.integers(0, config.timesteps, batch.global_size)[own]
    chances = generator.random((2, batch.global_size))[:, own]
    dropped = chances < (config.condition_dropout if purpose == "train" else 0.0)
    shape = batch.targets["clip_tokens"].shape[1:]
    noise = torch.empty(len(batch.keys), *shape, device=device)
    for i in range(len(noise)):
        place = torch_generator(device, seed, "noise", purpose, batch.step, batch.start + i)
        noise[i] = torch.randn(shape, generator=place, device=device)
    return PriorDraw(
        timestep=torch.from_numpy(timestep).to(device),
        noise=noise,
        drop_condition=torch.from_numpy(dropped[0]).to(device),
        drop_tokens=torch.from_numpy(dropped[1]).to(device),
    )
