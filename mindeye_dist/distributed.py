"""Distributed: rank and world size, and the gather with which a loss sees the global batch.

Without a process group every function acts as for one worker. Every rank computes the same
loss on the same whole matrices, so the gradient of a gathered tensor needs no communication: each
rank keeps its own rows, times the world size, because backends average gradients over ranks. A test
pins that the loss and the gradients of any number of workers are those of one process on the joined
batch.
"""

import os
import sys
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor

from mindeye_dist.errors import InputError


def rank() -> int:
    """Return this process's rank, 0 when alone."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of workers, 1 when alone."""
    return dist.get_world_size() if dist.is_initialized() else 1


def barrier() -> None:
    """Wait for all workers."""
    if dist.is_initialized():
        dist.barrier()


def agree(message: str, group: dist.ProcessGroup | None = None) -> list[str]:
    """Return every rank's message on every rank; `group` replaces the default process group."""
    if not dist.is_initialized():
        return [message]
    messages: list[Any] = [None] * world_size()
    dist.all_gather_object(messages, message, group)
    return messages


def group_of_its_own() -> dist.ProcessGroup | None:
    """Return a new gloo group of all workers, for a thread beside training; called on all ranks."""
    if not dist.is_initialized():
        return None
    group = dist.new_group(backend="gloo")
    assert isinstance(group, dist.ProcessGroup)  # every rank is a member
    return group


def any_rank(said: bool, device: torch.device) -> bool:
    """Return on every rank whether `said` is true on any rank."""
    if world_size() == 1:
        return said
    most = torch.tensor(float(said), device=device)
    dist.all_reduce(most, dist.ReduceOp.MAX)
    return bool(most)


def local_slice(count: int, rank: int, world_size: int) -> slice:
    """Return the rows of a global batch that belong to a rank; sizes differ by one at most."""
    base, extra = divmod(count, world_size)
    start = rank * base + min(rank, extra)
    return slice(start, start + base + (rank < extra))


def gather(rows: Shaped[Tensor, "batch ..."], count: int) -> Shaped[Tensor, "global_batch ..."]:
    """Return the `count` rows of all ranks in the batch's order; gradients go to own rows."""
    if world_size() == 1:
        return rows
    return _Gather.apply(rows, count)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, count: int) -> Tensor:
        slices = [local_slice(count, other, world_size()) for other in range(world_size())]
        ctx.own = slices[rank()]
        longest = max(part.stop - part.start for part in slices)
        padded = rows.new_zeros(longest, *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in slices]
        dist.all_gather(parts, padded)
        return torch.cat([part[: s.stop - s.start] for part, s in zip(parts, slices, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0][ctx.own] * world_size(), None


def leave() -> NoReturn:
    """End this process with success, once all processes have called this function.

    The exit is immediate: gloo's threads may release their last tensors while Python shuts down and
    then abort for lack of its lock (PyTorch's pull request 179291), which would fail a finished
    run.
    """
    barrier()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def local_device(kind: str) -> torch.device:
    """Return this worker's device.

    Raises:
        InputError: `kind` is "cuda" but torch sees no CUDA device.
    """
    if kind == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise InputError("compute.device: got 'cuda', but torch sees no CUDA device")
    device = torch.device(
        "cuda", int(os.environ.get("LOCAL_RANK", rank())) % torch.cuda.device_count()
    )
    torch.cuda.set_device(device)
    return device
