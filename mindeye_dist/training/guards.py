"""Guards: what would spoil a run in silence is found within the step, or soon, and named.

All are called alike on every rank and come to the same answer there, so that ranks stop together.
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

NAMED = 5
"""Parameters and samples of a kind that a message names, at most."""
INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class NonFiniteError(Exception):
    """The loss or the gradient of a batch is NaN or infinite; names the step and the samples."""


class DivergedError(Exception):
    """Ranks hold different weights; names the step, the ranks and the first such parameters."""


class MiscountError(Exception):
    """An epoch did not deliver every sample of the manifest once; names the first of the others."""


def poison_if_non_finite(loss: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """Return the loss, such that all gradients are NaN if it is not finite.

    The gradient's norm then tells of both, and of any rank on all ranks, since NaN survives the
    mean over them: the host waits for the device once a step, and ranks need not ask each other.
    """
    return loss * torch.where(torch.isfinite(loss.detach()), 1.0, torch.nan)


def describe_non_finite(batch: Batch, loss: Tensor) -> str:
    """Return what is not finite in a step whose gradient is not, and the keys of its batch.

    Args:
        batch: this rank's part, as it was read.
        loss: what came of it on this rank.
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
    what = f"the loss is {losses[0]}" if losses else "the gradient is not finite"
    causes = f" (not finite: {', '.join(problems)})" if problems else ""
    return f"step {batch.step}: {what}{causes}; the batch was {', '.join(keys)}"


def bad_samples(loader: TrainLoader, step: int) -> dict[int, str]:
    """Return the samples found bad by all ranks up to a step since the start, and why, by number.

    Raises:
        DataError: there are more of them than may be passed over.
    """
    found: dict[int, str] = {}
    if loader.config.on_bad_sample == "skip":
        for text in agree(json.dumps(loader.bad.up_to(step))):
            found |= {int(number): why for number, why in json.loads(text).items()}
    loader.bad.check(found)
    return found


def check_ranks(parameters: Iterable[tuple[str, Tensor]], step: int) -> None:
    """Compare, to the bit, weights that every rank holds whole.

    Raises:
        DivergedError: some rank's are not the others'.
    """
    sums = {name: weight_checksum(weight) for name, weight in parameters}
    if world_size() == 1 or not sums:
        return
    table = gather(torch.stack(list(sums.values()))[None], world_size())
    if problem := describe_divergence(table.cpu(), list(sums)):
        raise DivergedError(f"step {step}: {problem}")


def weight_checksum(weight: Tensor) -> Int[Tensor, ""]:
    """Return the sum of a tensor's elements, their bits read as integers: no flipped bit keeps it.

    Integers add up exactly, in whatever order.
    """
    return weight.detach().view(INTEGERS[weight.element_size()]).sum(dtype=torch.int64)


def describe_divergence(table: Int[Tensor, "ranks parameters"], names: Sequence[str]) -> str:
    """Return which ranks differ in which parameters, given their checksums; "" where none do."""
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
    """Sees that every epoch delivers each sample of the manifest once, over all ranks.

    It would not if a rank read another's rows or none, if what reads ahead left out a step or took
    it twice, or if a run went on from the wrong place. A bad sample that was passed over counts as
    delivered by the one in its place. Drawn with replacement, only the number is compared.

    Args:
        loader: whose batches are counted.
        first_step: where this process begins; the rest of that epoch is all it delivers of it.
        device: where ranks can exchange numbers.

    Attributes:
        epochs: epochs that were found right so far.
    """

    def __init__(self, loader: TrainLoader, first_step: int, device: torch.device) -> None:
        self.epochs = 0
        self._device = device
        self._loader, self._first_step = loader, first_step
        self._count = len(loader.dataset)  # the manifest's: reading its indexes compared them
        self._keys = [sample.key for sample in loader.dataset.samples]
        self._numbers = {key: number for number, key in enumerate(self._keys)}
        self._seen: dict[int, np.ndarray] = defaultdict(lambda: np.zeros(self._count, np.int64))

    def add(self, batch: Batch) -> None:
        """Count a batch of this rank; where an epoch ends in it, compare all ranks' counts.

        Raises:
            MiscountError: a sample was not delivered once in the epoch.
        """
        first = batch.step * batch.global_size
        for position, key in enumerate(batch.keys, batch.start):
            ought, stands = self._loader.bad.replaced.get((batch.step, position), (-1, -1))
            if ought >= 0 and key == self._keys[stands]:
                key = self._keys[ought]
            self._seen[(first + position) // self._count][self._numbers[key]] += 1
        epoch = first // self._count
        if (first + batch.global_size) // self._count > epoch:
            own = torch.from_numpy(self._seen[epoch]).to(self._device)
            del self._seen[epoch]
            self._compare(epoch, gather(own[None], world_size()).sum(0))

    def _compare(self, epoch: int, seen: Int[Tensor, " samples"]) -> None:
        delivered, ought = seen.cpu().numpy(), self._ought(epoch)
        same = delivered.sum() == ought.sum()
        if self._loader.config.sampling == "permutation":
            same = bool((delivered == ought).all())
        if not same:
            few, many = (np.flatnonzero(s * (delivered - ought) > 0) for s in (-1, 1))
            raise MiscountError(
                f"epoch {epoch + 1}: {delivered.sum()} samples were delivered, expected "
                f"{ought.sum()}; too seldom: {self._some(few)}; too often: {self._some(many)}"
            )
        self.epochs += 1

    def _ought(self, epoch: int) -> Int[np.ndarray, " samples"]:
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
