"""Arithmetic of memory: what training a model takes on each GPU, without building it.

State (weights, gradients, optimizer) follows from counts of parameters and from what ZeRO shards
(Rajbhandari et al. 2020); what is kept for the backward pass follows from the layers' widths. All
sizes are in bytes unless named otherwise. The estimates leave out the CUDA context and
fragmentation: count cards at their decimal gigabytes, which are 7 % short of GiB.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

from mindeye_dist.config import ModelConfig
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


@dataclass(frozen=True, kw_only=True)
class Term:
    """Values that autograd keeps of one part of the model, and how they are counted."""

    part: str
    formula: str
    values: int


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


def kept_per_sample(
    config: ModelConfig, num_voxels: int, num_tokens: int, dim: int
) -> tuple[Term, ...]:
    """Return the values that one sample's forward pass keeps for the backward pass, part by part.

    V voxels, T tokens of D; backbone of width h and n blocks; projector of width P; prior of depth
    N over L = 2T + 1 tokens with H heads of d and feed-forward width F. Attention weights are
    counted, H (L + 1) a token, as where the fused kernel does not take the learned bias. The last
    layer is computed for the T tokens alone, but for what the others are attended by.
    """
    h, n = config.backbone.hidden, config.backbone.num_blocks
    p, prior = config.projector.hidden, config.prior
    length, inner = 2 * num_tokens + 1, prior.heads * prior.head_dim
    layer = 5 * dim + 5 * inner + prior.heads * (length + 1) + 4 * prior.feedforward_factor * dim
    return (
        Term(part="backbone", formula="V + 4 h (n + 1)", values=num_voxels + 4 * h * (n + 1)),
        Term(part="projector", formula="T (3 D + 6 P)", values=num_tokens * (3 * dim + 6 * p)),
        Term(
            part="prior",
            formula="((N - 1) L + T) (5 D + 5 H d + H (L + 1) + 4 F) + 2 (T + 1) D",
            values=((prior.depth - 1) * length + num_tokens) * layer + 2 * (num_tokens + 1) * dim,
        ),
        Term(
            part="tokens between parts",
            formula="8 T D",
            values=8 * num_tokens * dim,
        ),
    )


def activations(
    terms: Sequence[Term], batch_per_gpu: int, gathered: int, precision: Precision
) -> int:
    """Return the bytes of a GPU's batch, and of the tokens that the loss gathers.

    Args:
        terms: values of one sample, by part.
        batch_per_gpu: samples on each GPU at once.
        gathered: values of the whole batch's predictions and targets together.
        precision: bytes of a value.
    """
    per_sample = sum(term.values for term in terms)
    # Once as they are gathered, once as they are normalised.
    return (per_sample * batch_per_gpu + 2 * gathered) * precision.activation


def smallest_card(need: int) -> int | None:
    """Return the smallest common card (GB) that holds so many bytes, or None."""
    return next((card for card in CARDS_GB if need <= card * 10**9), None)
