"""OneCycle: learning rate and momentum as functions of the step (Smith and Topin 2018).

The published trainer's schedule, cosine in both phases, equal to torch's OneCycleLR. It is a pure
function, so that no scheduler's state has to be kept in checkpoints.
"""

import math

from mindeye_dist.config import OptimizerConfig


def one_cycle(
    config: OptimizerConfig, step: int, total_steps: int, warmup_fraction: float
) -> tuple[float, float]:
    """Return learning rate and momentum (Adam's first decay) of a step in 0..total_steps-1."""
    first = config.max_lr / config.start_factor
    peak = warmup_fraction * total_steps - 1
    if step <= peak:
        done = step / peak if peak > 0 else 1.0
        return (
            _cosine(first, config.max_lr, done),
            _cosine(config.momentum_high, config.momentum_low, done),
        )
    done = min(1.0, (step - peak) / max(total_steps - 1 - peak, 1e-9))
    return (
        _cosine(config.max_lr, first / config.final_factor, done),
        _cosine(config.momentum_low, config.momentum_high, done),
    )


def _cosine(start: float, end: float, done: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * done))
