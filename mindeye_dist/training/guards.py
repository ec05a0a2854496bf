"""Guards: find and name errors that would silently spoil a run.

Non-finite losses and gradients, weights that differ between ranks, samples that an epoch delivers
twice or not at all. Every rank calls every guard and gets the same answer, so that all ranks stop
together.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mindeye_dist.batch import Batch
from mindeye_dist.data.loader import TrainLoader
from mindeye_dist.distributed import agree, gather, world_size
from mindeye_dist.errors import DivergedError, MiscountError

NAMED = 5
"""Maximum number of parameters, or of samples of a kind, that a message names."""
INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def poison_if_non_finite(loss: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """Return the loss; if it is not finite, all gradients become NaN, on every rank once averaged.

    The norm of the gradient then shows a bad loss and a bad gradient of any rank on all ranks: the
    host waits for the device once a step, and ranks exchange nothing.
    """
    return loss * torch.where(torch.isfinite(loss.detach()), 1.0, torch.nan)


def describe_non_finite(batch: Batch, loss: Tensor) -> str:
    """Describe a step whose gradient is not finite: the inputs at fault, and the batch's keys.

    Args:
        batch: this rank's part of the batch, unmixed.
        loss: this rank's loss.
    """
    arrays = {"voxels": batch.voxels, **batch.targets}
    rows = {name: ~torch.isfinite(array).flatten(1).all(1) for name, array in arrays.items()}
    own = {
        "keys": batch.keys,
        "loss": loss.item(),
        "bad": [
            f"{name} of {batch.keys[i]}"
            for name, bad in rows.items()
            for i in bad.nonzero().flatten().tolist()
        ],
    }
    ranks = [json.loads(text) for text in agree(json.dumps(own))]
    keys = [key for part in ranks for key in part["keys"]]
    problems = [problem for part in ranks for problem in part["bad"]]
    losses = [part["loss"] for part in ranks if not np.isfinite(part["loss"])]
    symptom = f"the loss is {losses[0]}" if losses else "the gradient is not finite"
    causes = f" (not finite: {', '.join(problems)})" if problems else ""
    return f"step {batch.step}: {symptom}{causes}; the batch was {', '.join(keys)}"


def bad_samples(loader: TrainLoader, step: int) -> dict[int, str]:
    """Return the message of each sample that any rank has found bad, by sample number.

    Args:
        loader: the training batches.
        step: last step to consider; batches read ahead are left out.

    Raises:
        DataError: there are more bad samples than `data.max_bad_samples`.
    """
    found: dict[int, str] = {}
    if loader.config.on_bad_sample == "skip":
        for text in agree(json.dumps(loader.bad.up_to(step))):
            found |= {int(number): why for number, why in json.loads(text).items()}
    loader.bad.check(found)
    return found


def check_ranks(parameters: Iterable[tuple[str, Tensor]], step: int) -> None:
    """Compare weights that every rank holds whole between ranks, to the bit.

    Raises:
        DivergedError: the weights of some ranks differ.
    """
    sums = {name: weight_checksum(weight) for name, weight in parameters}
    if world_size() == 1 or not sums:
        return
    table = gather(torch.stack(list(sums.values()))[None], world_size())
    if problem := describe_divergence(table.cpu(), list(sums)):
        raise DivergedError(f"step {step}: {problem}")


def weight_checksum(weight: Tensor) -> Int[Tensor, ""]:
    """Return the sum of a tensor's elements, their bits read as integers.

    A single flipped bit changes the sum, and integers add up exactly in any order.
    """
    return weight.detach().view(INTEGERS[weight.element_size()]).sum(dtype=torch.int64)


def describe_divergence(table: Int[Tensor, "ranks parameters"], names: Sequence[str]) -> str:
    """Describe which ranks differ in which parameters, given checksums; "" if none differ."""
    rows = [tuple(row) for row in table.tolist()]
    common, number = Counter(rows).most_common(1)[0]
    if number == len(rows):
        return ""
    who = f"the {len(rows)} ranks hold {len(set(rows))} different sets of weights"
    if 2 * number > len(rows):
        others = [rank for rank, row in enumerate(rows) if row != common]
        who = f"ranks {others} hold other weights than the other {number}"
    differing = (table != table[0]).any(0).nonzero().flatten().tolist()
    more = f" and {len(differing) - NAMED} more" if len(differing) > NAMED else ""
    return f"{who}: {', '.join(names[i] for i in differing[:NAMED])}{more}"


class Ledger:
    """Counts samples and checks that every epoch delivers each one once, over all ranks.

    The check fails if a rank reads the rows of another rank, if the prefetch skips or repeats a
    step, or if a run resumes at the wrong step. The replacement of a bad sample counts as the bad
    sample.

    Args:
        loader: the training batches.
        first_step: first step of this process, which delivers only the rest of that epoch.
        device: device on which ranks exchange tensors.

    Attributes:
        epochs: number of epochs that passed the check.
    """

    def __init__(self, loader: TrainLoader, first_step: int, device: torch.device) -> None:
        self.epochs = 0
        self._device = device
        self._loader, self._first_step = loader, first_step
        self._count = len(
            loader.dataset
        )  # equals the manifest's: reading the indexes compared them
        self._keys = [sample.key for sample in loader.dataset.samples]
        self._numbers = {key: number for number, key in enumerate(self._keys)}
        self._seen: dict[int, np.ndarray] = defaultdict(lambda: np.zeros(self._count, np.int64))

    def add(self, batch: Batch) -> None:
        """Count this rank's part of a batch; at the end of an epoch, check the counts of all ranks.

        Raises:
            MiscountError: a sample was delivered more or less than once in the epoch.
        """
        first = batch.step * batch.global_size
        for position, key in enumerate(batch.keys, batch.start):
            expected, replacement = self._loader.bad.replaced.get((batch.step, position), (-1, -1))
            if expected >= 0 and key == self._keys[replacement]:
                key = self._keys[expected]
            self._seen[(first + position) // self._count][self._numbers[key]] += 1
        epoch = first // self._count
        if (first + batch.global_size) // self._count > epoch:
            own = torch.from_numpy(self._seen[epoch]).to(self._device)
            del self._seen[epoch]
            self._compare(epoch, gather(own[None], world_size()).sum(0))

    def _compare(self, epoch: int, seen: Int[Tensor, " samples"]) -> None:
        delivered, expected = seen.cpu().numpy(), self._expected(epoch)
        if not np.array_equal(delivered, expected):
            few, many = (np.flatnonzero(s * (delivered - expected) > 0) for s in (-1, 1))
            raise MiscountError(
                f"epoch {epoch + 1}: {delivered.sum()} samples were delivered, expected "
                f"{expected.sum()}; too seldom: {self._some(few)}; too often: {self._some(many)}"
            )
        self.epochs += 1

    def _expected(self, epoch: int) -> Int[np.ndarray, " samples"]:
        size = self._loader.global_batch_size
        begun = self._first_step * size - epoch * self._count
        if begun <= 0:
            numbers = np.array([self._numbers[key] for key in self._keys])
        else:
            steps = range(self._first_step, -(-(epoch + 1) * self._count // size))
            order = np.concatenate([self._loader.order(step) for step in steps])
            rest = order[: self._count - begun].tolist()
            numbers = np.array([self._numbers[self._keys[number]] for number in rest])
        return np.bincount(numbers, minlength=self._count)

    def _some(self, numbers: Int[np.ndarray, " samples"]) -> str:
        named = ", ".join(self._keys[number] for number in numbers[:NAMED].tolist())
        return f"{len(numbers)} ({named})" if named else "0"
