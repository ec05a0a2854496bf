"""Torch backend: the model in one process, or replicated over workers by DDP."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mindeye_dist.config import ComputeConfig, ExperimentConfig, OptimizerConfig
from mindeye_dist.distributed import local_device, world_size
from mindeye_dist.training.backends.protocol import (
    ParameterState,
    load_parameter,
    parameter_state,
    whole_shapes,
)
from mindeye_dist.training.optimizer import build_optimizer, gradient_norm, set_schedule


def build(model: nn.Module, config: ExperimentConfig) -> "TorchBackend":
    """Return the backend of a run."""
    return TorchBackend(model, config.compute, config.optimizer)


class TorchBackend:
    """Plain torch: one process, or DDP if there is a process group.

    Weights are float32; `compute.precision` bf16 computes by autocast.
    """

    def __init__(
        self, model: nn.Module, compute: ComputeConfig, optimizer: OptimizerConfig
    ) -> None:
        self.device = local_device(compute.device)
        self.shapes = whole_shapes(model)
        self._model = model.to(self.device)
        self._replica: nn.Module = model
        if world_size() > 1:
            self._replica = DistributedDataParallel(model)
        self._clip_norm = optimizer.clip_norm
        self._autocast = compute.precision == "bf16"
        self._optimizer = build_optimizer(self._model, optimizer)

    def forward(self, *inputs: Any) -> Any:
        """Run the model, in bf16 if `compute.precision` is bf16."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast):
            return self._replica(*inputs)

    def backward(self, loss: Tensor, last: bool = True) -> None:
        """Add the gradient; DDP averages it over ranks at every call, and averages add up."""
        loss.backward()

    def step(self, lr: float, momentum: float) -> bool:
        """Clip, step and clear."""
        set_schedule(self._optimizer, lr, momentum)
        norm = gradient_norm(self._model)
        finite = bool(torch.isfinite(norm))
        if finite:
            if self._clip_norm > 0:
                parameters = self._model.parameters()
                nn.utils.clip_grads_with_norm_(parameters, self._clip_norm, norm)
            self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return finite

    def train(self, mode: bool) -> None:
        """Switch dropout on or off."""
        self._replica.train(mode)

    def replicas(self) -> Iterator[tuple[str, Tensor]]:
        """Yield name and value of all weights."""
        yield from self._model.named_parameters()

    def state(self) -> Iterator[tuple[str, ParameterState]]:
        """Yield every parameter's training state."""
        for name, parameter in self._model.named_parameters():
            yield name, parameter_state(parameter, self._optimizer)

    def load_state(self, read: Callable[[str], ParameterState], steps: int) -> None:
        """Set every parameter's training state."""
        for name, parameter in self._model.named_parameters():
            load_parameter(parameter, self._optimizer, read(name), steps)


# DeepSpeed's own accessors of whole optimizer states are not used for ZeRO 1 and 2: they link the
# states of all parameter groups after the first group's first step, when the second group has none
# yet (0.19.8).
