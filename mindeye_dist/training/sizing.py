"""Arithmetic of memory: what training a model takes on each GPU, without building it.

State (weights, gradients, optimizer) follows from counts of parameters and from what ZeRO shards
(Rajbhandari et al. 2020); activations are counted in a forward pass on the meta device. All sizes
are in bytes unless named otherwise. The estimates leave out the CUDA context and fragmentation:
count cards at their decimal gigabytes, which are 7 % short of GiB.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mindeye_dist.errors import InputError

Stage = Literal[0, 1, 2, 3]

GIB = 2**30
CARDS_GB = (24, 40, 48, 80)
BUCKET = 500_000_000
"""Gradients that DeepSpeed reduces at once (its default)."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Counts of a model's parameters."""

    parameters: int
    matrices: int
    """Of them, those in matrices, which autocast makes a copy of."""
    largest: int
    """Of them, those of the largest single tensor."""


@dataclass(frozen=True, kw_only=True)
class Precision:
    """Bytes that a parameter takes in each of its roles, and an activation."""

    name: str
    weight: int
    gradient: int
    moments: int
    copy: int
    """Of the copy of a matrix that autocast computes with, until the backward pass is over."""
    activation: int


AUTOCAST = Precision(
    name="float32, bf16 autocast", weight=4, gradient=4, moments=8, copy=2, activation=4
)
"""What the backends do. Between half and all of the activations are float32: all is counted."""
BF16 = Precision(name="all bf16", weight=2, gradient=2, moments=4, copy=0, activation=2)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a model is spread over GPUs."""

    stage: Stage
    gpus: int
    precision: Precision
    offload: bool = False
    """Keep moments and the weights that the optimizer steps on in host memory."""

    def __post_init__(self) -> None:
        if self.gpus < 1:
            raise InputError(f"gpus: got {self.gpus}, expected at least 1")
        if self.offload and self.stage == 0:
            raise InputError("offload: got ZeRO 0, expected 1 to 3, whose shards can be offloaded")


@dataclass(frozen=True, kw_only=True)
class State:
    """Bytes of each GPU that stay from step to step, and of the host for each GPU."""

    weights: int
    gradients: int
    optimizer: int
    host: int

    @property
    def gpu(self) -> int:
        """All bytes on the GPU."""
        return self.weights + self.gradients + self.optimizer


def measure(model: nn.Module) -> Sizes:
    """Return the counts of a model's parameters (the meta device will do)."""
    counts = [(parameter.numel(), parameter.ndim) for parameter in model.parameters()]
    return Sizes(
        parameters=sum(count for count, _ in counts),
        matrices=sum(count for count, ndim in counts if ndim > 1),
        largest=max((count for count, _ in counts), default=0),
    )


def parts(model: nn.Module) -> dict[str, int]:
    """Return the number of parameters of each direct part of a model."""
    return {name: measure(part).parameters for name, part in model.named_children()}


def state(sizes: Sizes, plan: Plan) -> State:
    """Return what weights, gradients and optimizer take on each GPU.

    ZeRO 1 shards the optimizer, 2 also the gradients, 3 also the weights. ZeRO 1 and 2 step on a
    copy of the shard's weights, and so does offloading; elsewhere the optimizer steps on the
    weights themselves.
    """
    precision, stage = plan.precision, plan.stage
    whole, shard = sizes.parameters, -(-sizes.parameters // plan.gpus)
    copied = precision.weight if stage in (1, 2) or plan.offload else 0
    optimizer = (shard if stage >= 1 else whole) * (copied + precision.moments)
    return State(
        weights=(shard if stage >= 3 else whole) * precision.weight,
        gradients=(shard if stage >= 2 else whole) * precision.gradient,
        optimizer=0 if plan.offload else optimizer,
        host=optimizer if plan.offload else 0,
    )


def backward(sizes: Sizes, plan: Plan, activations: int) -> int:
    """Return what the backward pass needs on each GPU beside the state, at its largest.

    Activations, autocast's copies of the matrices, the bucket of gradients that is being reduced
    (DDP's buckets are as large as all gradients), and what is not yet sharded of the largest
    tensor: its gradient (ZeRO 2), and its weights as well (3).
    """
    precision = plan.precision
    need = activations + sizes.matrices * precision.copy
    if plan.stage == 0:
        return need + (sizes.parameters * precision.gradient if plan.gpus > 1 else 0)
    whole = {1: 0, 2: precision.gradient, 3: precision.gradient + precision.weight}[plan.stage]
    return need + BUCKET * precision.gradient + sizes.largest * whole


def step(sizes: Sizes, plan: Plan) -> int:
    """Return what the optimizer's step needs on each GPU beside the state, at its largest.

    AdamW makes two temporary copies of the tensor it steps on: of the largest one, or with ZeRO of
    the GPU's flat shard.
    """
    if plan.offload:
        return 0
    shard = -(-sizes.parameters // plan.gpus)
    return 2 * (shard if plan.stage else sizes.largest) * (plan.precision.moments // 2)


def peak(sizes: Sizes, plan: Plan, activations: int) -> int:
    """Return the most that each GPU holds at once: the state, and backward pass or step."""
    working = max(backward(sizes, plan, activations), step(sizes, plan))
    return state(sizes, plan).gpu + working


def kept_values(model: nn.Module, forward: Callable[[], Any]) -> int:
    """Return the number of values that autograd keeps of a forward pass, less the weights.

    Args:
        model: in single precision (the meta device will do).
        forward: calls the model.
    """
    kept: dict[int, torch.UntypedStorage] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage  # held, so that no later one takes its address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        outputs = forward()
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    del outputs
    return sum(s.nbytes() for address, s in kept.items() if address not in weights) // 4


def smallest_card(need: int) -> int | None:
    """Return the smallest common card (GB) that holds so many bytes, or None."""
    return next((card for card in CARDS_GB if need <= card * 10**9), None)
