"""Writing a checkpoint: each rank writes its shard; a failure on one rank is raised on all.

Rank 0 writes the weights. The optimizer's moments are dealt out: rank r writes those of parameters
r, r + world_size, r + 2 world_size and so on.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed import ProcessGroup

from mindeye_dist.distributed import agree, rank, world_size
from mindeye_dist.errors import CheckpointError

MODEL = "model.safetensors"
MOMENTS = ("exp_avg", "exp_avg_sq")
Parameters = Iterator[tuple[str, dict[str, Tensor]]]
"""Name, and `weight`, `exp_avg` and `exp_avg_sq`, of every parameter."""
RankShard = tuple[dict[str, Tensor], dict[str, Tensor]]
"""Weights and moments by name, in host memory."""


class HostCopies:
    """Copies of tensors in host memory, which training does not change.

    The memory of a name's previous copy is used again: allocation would take longer than copying.
    """

    def __init__(self) -> None:
        self._tensors: dict[str, Tensor] = {}

    def __call__(self, name: str, tensor: Tensor) -> Tensor:
        """Return a copy in host memory, valid until the next call with the same name."""
        held = self._tensors.get(name)
        if held is None or (held.shape, held.dtype) != (tensor.shape, tensor.dtype):
            held = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
            self._tensors[name] = held
        return held.copy_(tensor.detach())


def in_host_memory(_: str, tensor: Tensor) -> Tensor:
    """Return the tensor itself if it is in host memory, else a copy in host memory."""
    return tensor.detach().cpu().contiguous()


def rank_shard(
    parameters: Parameters, take: Callable[[str, Tensor], Tensor] = in_host_memory
) -> RankShard:
    """Return the part of the training state that this rank writes; called on all ranks."""
    weights, moments = {}, {}
    for i, (name, state) in enumerate(parameters):
        if rank() == 0:
            weights[name] = take(name, state["weight"])
        if i % world_size() == rank():
            for key in MOMENTS:
                moments[f"{key}:{name}"] = take(f"{key}:{name}", state[key])
    return weights, moments


def write_rank_shard(folder: Path, share: RankShard) -> None:
    """Write this rank's files into a checkpoint's folder.

    Raises:
        CheckpointError: weights are not finite.
        OSError: a file cannot be written.
    """
    weights, moments = share
    not_finite = [name for name, weight in weights.items() if not torch.isfinite(weight).all()]
    if not_finite:
        raise CheckpointError(f"weights are not finite: {', '.join(not_finite)}")
    if rank() == 0:
        save_tensors(folder / MODEL, weights)
    save_tensors(folder / f"optimizer-{rank():05d}-of-{world_size():05d}.safetensors", moments)


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write a safetensors file that others may read.

    Raises:
        OSError: it cannot be written.
    """
    try:
        save_file(tensors, path)
        path.chmod(0o644)  # safetensors leaves files that only their owner may read
    except SafetensorError as error:  # how safetensors reports a full disk
        raise OSError(str(error)) from error


@contextmanager
def raise_on_all_ranks(what: str, group: ProcessGroup | None) -> Iterator[None]:
    """Run the body, then raise on every rank of the group if it failed on any of them.

    Raises:
        CheckpointError: the body failed on a rank; the message names rank and error.
    """
    problem = ""
    try:
        yield
    except (OSError, CheckpointError) as error:
        problem = f"rank {rank()}: {error}"
    problems = [text for text in agree(problem, group) if text]
    if problems:
        raise CheckpointError(f"{what}: {'; '.join(problems)}")
