"""Not a test: faults in the numbers of a run, each put in at a step, and how soon they are found.

A voxel turns NaN or a target infinite in memory, after everything was read and verified; a gradient
turns NaN in the backward pass; a bit of one rank's weights flips. `python -m chaos.numeric
OUT.json [SEED]` puts all of them into runs of the tiny subject and writes what became of them.
"""

import json
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch

from chaos.record import NEVER, record
from jobs.worker import worker
from mindeye_dist.data.loader import TrainLoader
from mindeye_dist.distributed import rank
from mindeye_dist.errors import DivergedError, NonFiniteError
from mindeye_dist.strict import override
from mindeye_dist.training.backends.deepspeed_backend import DeepSpeedBackend
from mindeye_dist.training.backends.torch_backend import TorchBackend
from tests.conftest import tiny_run, write_tiny_subject
from tests.forked import run_ranks

CHECK_EVERY = 5
MANTISSA = 23
BACKENDS = {"torch": TorchBackend, "deepspeed": DeepSpeedBackend}


@dataclass(frozen=True)
class Fault:
    """What goes wrong: at which step, on which rank, in which of its rows or weights, in what bit.

    `place` and `bit` are taken modulo what there is.
    """

    kind: str
    step: int
    rank: int = 0
    place: int = 0
    bit: int = 0


@contextmanager
def spoiled_batch(fault, backend):
    """Spoil a sample of a batch after it was read; `fault.kind` is of its voxels or targets."""
    read = TrainLoader.batch

    def batch(self, step, rank, world_size, buffers=None):
        whole = read(self, step, rank, world_size, buffers)
        if step == fault.step:
            row = fault.place % len(whole.keys)
            if fault.kind == "nan voxel":
                whole.voxels[row, fault.place % whole.voxels.shape[1]] = torch.nan
            else:
                for rows in whole.targets.values():
                    rows[row].view(-1)[fault.place % rows[row].numel()] = torch.inf
        return whole

    with patch.object(TrainLoader, "batch", batch):
        yield


@contextmanager
def spoiled_gradient(fault, backend):
    """Turn a weight's gradient NaN in one backward pass."""
    build = backend.__init__

    def build_and_hook(self, *arguments):
        build(self, *arguments)
        model = self._model if backend is TorchBackend else self._engine.module
        weights = list(model.parameters())
        steps = count()

        def spoil(gradient):
            return gradient * torch.nan if next(steps) == fault.step else gradient

        weights[fault.place % len(weights)].register_hook(spoil)

    with patch.object(backend, "__init__", build_and_hook):
        yield


@contextmanager
def flipped_bit(fault, backend):
    """Flip a bit of a weight's mantissa after a step."""
    step, steps = backend.step, count()

    def step_and_flip(self, lr, momentum):
        done = step(self, lr, momentum)
        if next(steps) == fault.step:
            weights = [weight for _, weight in self.replicas()]
            bits = weights[fault.place % len(weights)].data.view(-1).view(torch.int32)
            bits[fault.place % len(bits)] ^= 1 << fault.bit % MANTISSA
        return done

    with patch.object(backend, "step", step_and_flip):
        yield


FAULTS = {
    "nan voxel": spoiled_batch,
    "inf target": spoiled_batch,
    "nan gradient": spoiled_gradient,
    "flipped bit": flipped_bit,
}

RAISED = {kind: "NonFiniteError" for kind in FAULTS} | {"flipped bit": "DivergedError"}


def strike(cases, folder):
    """Run the worker with each fault, if it is this rank's; write what it raised, as JSON."""
    for number, (config, fault) in enumerate(cases):
        own = override(config, {"run_dir": f"{config.run_dir}-{number}"})
        found = {"error": "", "message": ""}
        try:
            if rank() == fault.rank:
                with FAULTS[fault.kind](fault, BACKENDS[config.compute.backend]):
                    worker(own)
            else:
                worker(own)
        except (NonFiniteError, DivergedError) as error:
            found = {"error": type(error).__name__, "message": str(error)}
        (Path(folder) / f"{number}-{rank()}.json").write_text(json.dumps(found))


def strike_all(cases, ranks, folder):
    """Run a worker for each config and its fault on some ranks; return what each rank raised."""
    workers = {"compute.num_workers": ranks}
    cases = [(override(config, workers), fault) for config, fault in cases]
    folder = Path(folder)
    if ranks == 1:
        strike(cases, folder)
    else:
        run_ranks(strike, cases, folder, count=ranks, folder=folder)
    return [
        [json.loads((folder / f"{number}-{each}.json").read_text()) for each in range(ranks)]
        for number in range(len(cases))
    ]


def run(seed=0):
    """Put every kind of fault into runs of one, two and three ranks at random places.

    Returns:
        For each, what was done, what was raised, after how many steps, and whether all ranks said
        so alike and with the samples' or the weights' names.
    """
    generator = np.random.default_rng(seed)
    figures = []
    for ranks, kinds in ((1, list(FAULTS)[:3]), (2, list(FAULTS)), (3, ["flipped bit"])):
        faults = [
            Fault(
                kind,
                step=int(generator.integers(1, 15)),
                rank=int(generator.integers(ranks)),
                place=int(generator.integers(1000)),
                bit=int(generator.integers(MANTISSA)),
            )
            for kind in kinds
        ]
        with tempfile.TemporaryDirectory() as folder:
            write_tiny_subject(f"{folder}/shards")
            config = tiny_run(f"{folder}/shards", f"{folder}/run")
            config = override(config, {"training.check_ranks_every": CHECK_EVERY})
            found = strike_all([(config, fault) for fault in faults], ranks, folder)
        figures += [figure(ranks, *each) for each in zip(faults, found, strict=True)]
    return {
        "seed": seed,
        "faults": len(figures),
        "not found": sum(each["raised"] != RAISED[each["kind"]] for each in figures),
        "late": sum(not in_time(each) for each in figures),
        "not alike on all ranks": sum(not each["alike on all ranks"] for each in figures),
        "each": figures,
    }


def in_time(each):
    """Return whether a fault was found in its step, a flipped bit at the next comparison."""
    limit = CHECK_EVERY if each["kind"] == "flipped bit" else 1
    return each["steps until found"] is not None and 0 <= each["steps until found"] < limit


def figure(ranks, fault, found):
    """Return what became of a fault."""
    message = found[0]["message"]
    step = int(message.split(":")[0].removeprefix("step ")) if message else None
    # A batch's step is the number of those before it, that of a comparison counts itself.
    after = None if step is None else step - fault.step - (fault.kind == "flipped bit")
    return {
        "ranks": ranks,
        **asdict(fault),
        "raised": found[0]["error"],
        "steps until found": after,
        "alike on all ranks": all(each == found[0] for each in found),
        "said": message,
    }


if __name__ == "__main__":
    figures = run(*map(int, sys.argv[2:]))
    bounds = dict.fromkeys(("not found", "late", "not alike on all ranks"), NEVER)
    record(Path(sys.argv[1]), "numeric", figures, bounds)
