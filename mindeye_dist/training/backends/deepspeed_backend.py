"""DeepSpeed backend: ZeRO shards optimizer (stage 1), gradients (2) and weights (3).

The only file that names DeepSpeed. Weights are float32 and bf16 is computed by autocast, as in the
torch backend, unless `compute.states` keeps weights and moments in bf16 to save memory.
"""

import os
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from mindeye_dist.config import ComputeConfig, ExperimentConfig, OptimizerConfig, TrainingConfig
from mindeye_dist.distributed import local_device, rank, world_size
from mindeye_dist.errors import InputError
from mindeye_dist.runs.checkpoints import MOMENTS
from mindeye_dist.training.backends.protocol import (
    ParameterState,
    load_parameter,
    parameter_state,
    whole_shapes,
)
from mindeye_dist.training.optimizer import build_optimizer, gradient_norm, set_schedule


def build(model: nn.Module, config: ExperimentConfig) -> "DeepSpeedBackend":
    """Return the backend of a run."""
    return DeepSpeedBackend(model, config.compute, config.optimizer, config.training)


class DeepSpeedBackend:
    """Model and optimizer in DeepSpeed's engine, with settings derived from the run's config."""

    def __init__(
        self,
        model: nn.Module,
        compute: ComputeConfig,
        optimizer: OptimizerConfig,
        training: TrainingConfig,
    ) -> None:
        self.device = local_device(compute.device)
        if self.device.type == "cpu":
            os.environ.setdefault("DS_ACCELERATOR", "cpu")
        deepspeed = _import_deepspeed()
        _skip_shared_memory_kernel()
        if not torch.distributed.is_initialized():
            raise InputError("compute.backend deepspeed: needs a process group (Ray or torchrun)")
        deepspeed.init_distributed(dist_backend=torch.distributed.get_backend(), verbose=False)
        self.shapes = whole_shapes(model)
        self._stage = compute.zero_stage
        self._low_states = compute.states == "bf16"
        self._engine, *_ = deepspeed.initialize(
            model=model.to(self.device),
            optimizer=build_optimizer(model, optimizer),
            config=deepspeed_settings(compute, optimizer, training),
        )

    def forward(self, *inputs: Any) -> Any:
        """Run the model; the engine applies autocast unless its weights are bf16."""
        if not self._low_states:
            return self._engine(*inputs)
        with torch.autocast(self.device.type, torch.bfloat16):
            return self._engine(*inputs)

    def backward(self, loss: Tensor, last: bool = True) -> None:
        """Add the gradient; the engine shards and averages it."""
        self._engine.set_gradient_accumulation_boundary(last)
        self._engine.backward(loss, scale_wrt_gas=False)

    def step(self, lr: float, momentum: float) -> bool:
        """Step and clear; the engine clips."""
        set_schedule(self._engine.basic_optimizer, lr, momentum)
        # From ZeRO 1 on the engine computes the norm over all ranks before it steps.
        if self._stage == 0 and not bool(torch.isfinite(gradient_norm(self._engine.module))):
            self._engine.zero_grad()
            return False
        self._engine.step()
        return bool(self._engine.was_step_applied())

    def train(self, mode: bool) -> None:
        """Switch dropout on or off."""
        self._engine.train(mode)

    def replicas(self) -> Iterator[tuple[str, Tensor]]:
        """Yield name and value of all weights; none under ZeRO 3, which shards them."""
        if self._stage < 3:
            yield from self._engine.module.named_parameters()

    def state(self) -> Iterator[tuple[str, ParameterState]]:
        """Yield every parameter's training state, gathered from all ranks one at a time."""
        optimizer = self._engine.basic_optimizer
        for name, parameter in self._engine.module.named_parameters():
            if self._stage == 0:
                yield name, parameter_state(parameter, optimizer)
            elif self._stage == 3:
                yield name, _gather_zero3(parameter)
            else:
                yield name, _gather_zero12(parameter, self._partitions(), optimizer)

    def load_state(self, read: Callable[[str], ParameterState], steps: int) -> None:
        """Set every parameter's training state; each rank keeps its part."""
        optimizer = self._engine.basic_optimizer
        for flat in self._partitions():
            optimizer.state[flat] = {key: torch.zeros_like(flat) for key in MOMENTS}
        for name, parameter in self._engine.module.named_parameters():
            state = read(name)
            if self._stage == 0:
                load_parameter(parameter, optimizer, state, steps)
            elif self._stage == 3:
                _load_zero3(parameter, state)
            else:
                _load_zero12(parameter, state, self._partitions(), optimizer)
        for parameter, moments in optimizer.state.items():
            moments["step"] = torch.tensor(float(steps), device=parameter.device)

    def _partitions(self) -> list[Tensor]:
        # This rank's share of the flattened weights, on which the optimizer steps.
        partitions: list[Tensor] = []
        if self._stage == 3:
            partitions = self._engine.optimizer.fp32_partitioned_groups_flat
        elif self._stage > 0:
            partitions = self._engine.optimizer.single_partition_of_fp32_groups
        return partitions


def deepspeed_settings(
    compute: ComputeConfig, optimizer: OptimizerConfig, training: TrainingConfig
) -> dict[str, Any]:
    """Return DeepSpeed's config, every number derived from the run's."""
    zero: dict[str, Any] = {"stage": compute.zero_stage}
    if compute.zero_stage == 3:
        # Small tensors are not worth a gather of their own.
        zero["stage3_param_persistence_threshold"] = 10_000
    if compute.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu"}
    if compute.states == "bf16":
        keys = ("enabled", "bf16_master_weights_and_grads", "bf16_optimizer_states")
        precision: dict[str, Any] = {"bf16": dict.fromkeys(keys, True)}
    else:
        autocast = {"enabled": compute.precision == "bf16", "dtype": "bfloat16"}
        precision = {"torch_autocast": autocast}
    return {
        # Torch's fused AdamW steps on CPUs too; DeepSpeed's own would want a compiler.
        "zero_force_ds_cpu_optimizer": False,
        "train_micro_batch_size_per_gpu": max(1, training.global_batch_size // world_size()),
        "gradient_accumulation_steps": 1,
        "gradient_clipping": optimizer.clip_norm,
        "zero_optimization": zero,
        "steps_per_print": 10**9,
        **precision,
    }


def _import_deepspeed() -> ModuleType:
    # Its autotuner, never called here, would import MLflow if it is installed, for seconds.
    hidden = "mlflow" not in sys.modules
    if hidden:
        sys.modules["mlflow"] = None  # type: ignore[assignment]
    try:
        import deepspeed
    finally:
        if hidden:
            del sys.modules["mlflow"]
    return deepspeed


def _skip_shared_memory_kernel() -> None:
    # On a CPU DeepSpeed would spend a minute compiling a communication kernel that training never
    # calls.
    from deepspeed.ops import __compatible_ops__

    if "deepspeed_shm_comm" in __compatible_ops__:
        __compatible_ops__["deepspeed_shm_comm"] = False


def _fragments(
    parameter: Any, partitions: list[Tensor], optimizer: torch.optim.Optimizer
) -> tuple[slice, ParameterState]:
    """Return the range of a parameter in this rank's partition, and views of its state there."""
    mapping = parameter._hp_mapping
    if mapping is None:
        return slice(0, 0), {}
    theirs, ours = mapping.lp_fragment_address, mapping.hp_fragment_address
    flat = partitions[mapping.param_group_index]
    moments = optimizer.state.get(flat, {})
    whole = {"weight": flat.data, **{key: moments[key] for key in MOMENTS if key in moments}}
    views = {key: tensor.narrow(0, ours.start, ours.numel) for key, tensor in whole.items()}
    return slice(theirs.start, theirs.start + theirs.numel), views


def _gather_zero12(
    parameter: Any, partitions: list[Tensor], optimizer: torch.optim.Optimizer
) -> ParameterState:
    own, views = _fragments(parameter, partitions, optimizer)
    state = {}
    for key in ("weight", *MOMENTS):
        whole = parameter.new_zeros(parameter.numel())
        if key in views:
            whole[own] = views[key]
        torch.distributed.all_reduce(whole)
        state[key] = whole.reshape(parameter.shape)
    return state


def _load_zero12(
    parameter: Any,
    state: ParameterState,
    partitions: list[Tensor],
    optimizer: torch.optim.Optimizer,
) -> None:
    parameter.data.copy_(state["weight"])
    own, views = _fragments(parameter, partitions, optimizer)
    for key, view in views.items():
        view.copy_(state[key].flatten()[own])


def _gather_zero3(parameter: Any) -> ParameterState:
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    moments = {key: safe_get_full_optimizer_state(parameter, key) for key in MOMENTS}
    return {"weight": safe_get_full_fp32_param(parameter), **moments}


def _load_zero3(parameter: Any, state: ParameterState) -> None:
    from deepspeed.utils import safe_set_local_fp32_param, safe_set_local_optimizer_state

    size = parameter.ds_tensor.numel()  # of every rank's part; the last is padded
    for key, whole in state.items():
        padded = whole.new_zeros(size * world_size())
        padded[: whole.numel()] = whole.flatten()
        part = padded.narrow(0, size * rank(), size).to(parameter.ds_tensor.device)
        if key != "weight":
            safe_set_local_optimizer_state(parameter, part, key)
            continue
        safe_set_local_fp32_param(parameter, part)
        parameter.ds_tensor.data.copy_(part)
        if parameter.data.numel() == whole.numel():  # small parameters stay whole on every rank
            parameter.data.copy_(whole)
