"""Gaussian diffusion over clip_tokens: schedule, forward process, ancestral sampler.

Cosine schedule of Nichol and Dhariwal (2021) and the DDPM sampler of Ho et al. (2020), for a
network that predicts x_0, as MindEye's prior does (section 3.2). Pure functions; the tables are
float64 on the host and become tensors where they are used, so that no change of a model's precision
can round them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class NoiseSchedule:
    """Tables over the timesteps 0..T-1, each of shape (timesteps,)."""

    alphas_cumprod: np.ndarray
    posterior_mean_x_0: np.ndarray
    posterior_mean_x_t: np.ndarray
    posterior_log_variance: np.ndarray

    @property
    def timesteps(self) -> int:
        """Number of steps, 100 in the published model."""
        return len(self.alphas_cumprod)


def cosine_schedule(timesteps: int, offset: float = 0.008) -> NoiseSchedule:
    """Return the schedule alphas_cumprod(t) = cos^2(((t/T) + s) / (1 + s) * pi/2), normalised."""
    time = np.linspace(0, 1, timesteps + 1)
    curve = np.cos((time + offset) / (1 + offset) * math.pi / 2) ** 2
    step_variance = np.clip(1 - curve[1:] / curve[:-1], 0, 0.999)
    alphas_cumprod = np.cumprod(1 - step_variance)
    previous = np.concatenate([[1.0], alphas_cumprod[:-1]])
    variance = step_variance * (1 - previous) / (1 - alphas_cumprod)
    return NoiseSchedule(
        alphas_cumprod=alphas_cumprod,
        posterior_mean_x_0=step_variance * np.sqrt(previous) / (1 - alphas_cumprod),
        posterior_mean_x_t=(1 - previous) * np.sqrt(1 - step_variance) / (1 - alphas_cumprod),
        posterior_log_variance=np.log(np.maximum(variance, 1e-20)),
    )


def add_noise(
    schedule: NoiseSchedule,
    x_0: Float[Tensor, "batch tokens dim"],
    timestep: Int[Tensor, " batch"],
    noise: Float[Tensor, "batch tokens dim"],
) -> Float[Tensor, "batch tokens dim"]:
    """Return x_t = sqrt(alphas_cumprod) x_0 + sqrt(1 - alphas_cumprod) noise."""
    kept = _at(schedule.alphas_cumprod, timestep, x_0)
    return kept.sqrt() * x_0 + (1 - kept).sqrt() * noise


@torch.no_grad()
def sample_ddpm(
    schedule: NoiseSchedule,
    predict_x_0: Callable[[Any, Any], Any],
    noise: Callable[[int], Float[Tensor, "batch tokens dim"]],
) -> Float[Tensor, "batch tokens dim"]:
    """Return a sample by ancestral sampling over all timesteps, largest first.

    Args:
        schedule: the noise schedule.
        predict_x_0: the network, from (x_t, timestep of shape (batch,)) to x_0.
        noise: gives standard normal noise for step T (the start) and for each step T-1..1 after it.
    """
    x = noise(schedule.timesteps)
    for step in reversed(range(schedule.timesteps)):
        timestep = torch.full((len(x),), step, device=x.device)
        x_0 = predict_x_0(x, timestep)
        x = (
            _at(schedule.posterior_mean_x_0, timestep, x) * x_0
            + _at(schedule.posterior_mean_x_t, timestep, x) * x
        )
        if step > 0:
            x = x + (0.5 * _at(schedule.posterior_log_variance, timestep, x)).exp() * noise(step)
    return x


def _at(
    table: np.ndarray, timestep: Int[Tensor, " batch"], like: Float[Tensor, "batch tokens dim"]
) -> Float[Tensor, "batch 1 1"]:
    values = torch.as_tensor(table, dtype=torch.float32).to(like.device)
    return values[timestep][:, None, None]
