"""Optimizer: AdamW with its parameter groups, the schedule of a step, and the gradient's norm."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mindeye_dist.config import OptimizerConfig


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """Return AdamW on the model's `parameter_groups`."""
    return torch.optim.AdamW(
        parameter_groups(model, config),
        lr=0.0,
        eps=config.eps,
        betas=moment_decays(config),
        fused=True,  # one pass over weights and moments instead of ten
    )


def parameter_groups(model: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Return the decayed and the undecayed parameters.

    Matrices are decayed; biases and the gains of norms are not. (The published filter meant this
    too, but matched no gain and spared the prior's table of relative biases.)
    """
    decayed: list[nn.Parameter] = []
    spared: list[nn.Parameter] = []
    for parameter in model.parameters():
        (decayed if parameter.ndim > 1 else spared).append(parameter)
    return [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": spared, "weight_decay": 0.0},
    ]


def moment_decays(config: OptimizerConfig) -> tuple[float, float]:
    """Return the decay rates of AdamW's first and second moment."""
    return (config.momentum_high, config.second_moment_decay)


def set_schedule(optimizer: torch.optim.Optimizer, lr: float, momentum: float) -> None:
    """Set this step's learning rate and momentum (decay rate of the first moment)."""
    for group in optimizer.param_groups:
        group["lr"] = lr
        group["betas"] = (momentum, group["betas"][1])


def gradient_norm(model: nn.Module) -> Float[Tensor, ""]:
    """Return the norm of the gradient of a model that is whole on this rank."""
    return nn.utils.get_total_norm(p.grad for p in model.parameters() if p.grad is not None)
