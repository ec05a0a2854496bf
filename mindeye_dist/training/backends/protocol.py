"""Backend: the interface between the trainer and the libraries that hold model and optimizer."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from mindeye_dist.runs.checkpoints import MOMENTS

ParameterState = dict[str, Tensor]
"""`weight`, `exp_avg` and `exp_avg_sq` of one parameter, whole, in their own precision."""


@runtime_checkable
class Backend(Protocol):
    """Interface between the trainer and model and optimizer; all ranks call every method."""

    device: torch.device
    shapes: dict[str, tuple[int, ...]]
    """Shape of every parameter, whole."""

    def forward(self, *inputs: Any) -> Any:
        """Run the model."""

    def backward(self, loss: Tensor, last: bool = True) -> None:
        """Add the loss's gradient; `last` ends the accumulation of a step."""

    def step(self, lr: float, momentum: float) -> bool:
        """Apply the mean gradient over ranks and clear it.

        A gradient whose norm is not finite, overflow included, is only cleared: weights and moments
        stay, and all ranks return False.
        """

    def train(self, mode: bool) -> None:
        """Switch dropout on or off."""

    def replicas(self) -> Iterator[tuple[str, Tensor]]:
        """Yield name and value of the weights that every rank holds whole."""

    def state(self) -> Iterator[tuple[str, ParameterState]]:
        """Yield every parameter's training state, in the model's order."""

    def load_state(self, read: Callable[[str], ParameterState], steps: int) -> None:
        """Set every parameter's training state, as after `steps` steps."""


def whole_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return every parameter's shape, before anything shards it."""
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def parameter_state(parameter: nn.Parameter, optimizer: torch.optim.Optimizer) -> ParameterState:
    """Return the training state of a parameter that is whole on this rank."""
    moments = optimizer.state.get(parameter, {})
    return {
        "weight": parameter.detach(),
        **{key: moments.get(key, torch.zeros_like(parameter)) for key in MOMENTS},
    }


def load_parameter(
    parameter: nn.Parameter, optimizer: torch.optim.Optimizer, state: ParameterState, steps: int
) -> None:
    """Copy one whole parameter's training state in place."""
    parameter.data.copy_(state["weight"])
    optimizer.state[parameter] = {
        "step": torch.tensor(float(steps), device=parameter.device),
        **{key: state[key].to(parameter.device).clone() for key in MOMENTS},
    }
