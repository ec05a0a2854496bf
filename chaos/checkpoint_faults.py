"""Damage to checkpoints of many kinds, at random places: none may be taken for a good one.

Each trial takes a folder of good checkpoints, injects a fault into the newest one or two, or into
the save of another, and asks for the newest good one. Oracle: which were damaged is known.
`python -m chaos.checkpoint_faults OUT.json` runs 1,000 of them and 1,000 clean loads.
"""

import logging
import resource
import shutil
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import torch

from chaos.record import NEVER, record
from mindeye_dist.errors import CheckpointError
from mindeye_dist.runs.checkpoints import (
    MANIFEST,
    MODEL,
    STATE,
    Checkpoints,
    Progress,
    TrainingState,
    checkpoint_name,
    verify,
)

STEPS, NEXT = (10, 20, 30, 40), 50
SHAPES = {"first": (60, 50), "second": (50,), "third": (50, 70)}
PAGE = 4096
TRIALS = 1000


def parameters(step):
    """Yield the training state of a tiny model at a step."""
    generator = torch.Generator().manual_seed(step)
    for name, shape in SHAPES.items():
        keys = ("weight", "exp_avg", "exp_avg_sq")
        yield name, {key: torch.randn(shape, generator=generator) for key in keys}


def save(checkpoints, step, begin="save"):
    """Save the tiny model's state of a step."""
    about = {"config.json": {"a": 1}, "shapes.json": {"b": 2}}
    getattr(checkpoints, begin)(Progress(step=step), parameters(step), about)


def files(folder, least=1):
    """Return a checkpoint's files of at least so many bytes."""
    return [path for path in sorted(folder.iterdir()) if path.stat().st_size >= least]


def other(folder, random):
    """Return a checkpoint of another step, one that stays whole."""
    return folder.with_name(checkpoint_name(int(random.choice(STEPS[:2]))))


def cut(folder, random):
    """Cut a file off at a random byte."""
    path = random.choice(files(folder))
    path.write_bytes(path.read_bytes()[: random.integers(path.stat().st_size)])


def flip(folder, random):
    """Flip one bit of a file."""
    path = random.choice(files(folder))
    data = bytearray(path.read_bytes())
    data[random.integers(len(data))] ^= 1 << int(random.integers(8))
    path.write_bytes(data)


def zero_page(folder, random):
    """Fill a page with zeros."""
    path = random.choice(files(folder, 2 * PAGE))
    data = bytearray(path.read_bytes())
    first = PAGE * int(random.integers(len(data) // PAGE))
    data[first : first + PAGE] = bytes(PAGE)
    path.write_bytes(data)


def zero_tail(folder, random):
    """Leave a file's length, but zeros from a random byte on, as of writes that were never done."""
    path = random.choice(files(folder))
    data = made = path.read_bytes()
    while made == data:
        kept = int(random.integers(len(data)))
        made = data[:kept] + bytes(len(data) - kept)
    path.write_bytes(made)


def remove(folder, random):
    """Remove a file."""
    random.choice(files(folder)).unlink()


def mix(folder, random):
    """Put a file of another step in its place."""
    optimizer = next(folder.glob("optimizer-*")).name
    name = random.choice([MODEL, STATE, optimizer])
    shutil.copy(other(folder, random) / name, folder / name)


def swap(folder, _):
    """Exchange weights and moments."""
    model, optimizer = folder / MODEL, next(folder.glob("optimizer-*"))
    data = model.read_bytes()
    model.write_bytes(optimizer.read_bytes())
    optimizer.write_bytes(data)


def empty_manifest(folder, random):
    """Leave nothing in the manifest."""
    (folder / MANIFEST).write_text(str(random.choice(["", "{}", "[]", "null", "\0" * 100])))


def strange_manifest(folder, random):
    """Put another step's manifest in its place."""
    shutil.copy(other(folder, random) / MANIFEST, folder / MANIFEST)


def extra(folder, random):
    """Add a file that was never written."""
    name = random.choice(["optimizer-00001-of-00002.safetensors", "x", ".hidden", "model.bin"])
    (folder / name).write_bytes(random.bytes(int(random.integers(100))))


def unfinished(folder, random):
    """Leave what a crash between two files leaves: no manifest, and some files not there yet."""
    (folder / MANIFEST).unlink()
    for path in files(folder)[: int(random.integers(3))]:
        path.unlink()


def crash_before_rename(folder, _):
    """Leave a whole checkpoint of a later step under the name that it was written by."""
    shutil.copytree(
        folder.with_name(checkpoint_name(STEPS[-1])), folder.with_name(f".writing-{NEXT:08}")
    )


def full_disk(folder, random):
    """Save a later step while the operating system refuses bytes beyond a random file size."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = max(path.stat().st_size for path in folder.iterdir())
    checkpoints = Checkpoints(str(folder.parents[1]), len(STEPS))
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(random.integers(size)), hard))
    refused = False
    try:
        save(checkpoints, NEXT, str(random.choice(["save", "save_in_background"])))
        refused = not checkpoints.wait_for_save()
    except CheckpointError:
        refused = True
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert refused, "the save on a full disk was not refused"


DAMAGES = (
    *(cut, flip, zero_page, zero_tail, remove, mix, swap),
    *(empty_manifest, strange_manifest, extra, unfinished),
)
FAILED_SAVES = (crash_before_rename, full_disk)


class Alarms(logging.Handler):
    """Keeps the names of checkpoints that the log passes over."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.said = []

    def emit(self, record):
        """Keep one message."""
        self.said.append(record.getMessage())

    def about(self, names):
        """Return how many messages name one of these checkpoints; forget all."""
        said, self.said = self.said, []
        return sum(any(name in message for name in names) for message in said)


def inject(folder, number, random):
    """Inject the fault whose turn it is; return its name and the names of what it damaged."""
    kind = (*DAMAGES, *FAILED_SAVES)[number % (len(DAMAGES) + len(FAILED_SAVES))]
    newest = [folder / checkpoint_name(step) for step in reversed(STEPS)]
    if kind in FAILED_SAVES:
        kind(newest[0], random)
        return kind.__name__, set()
    kind(newest[0], random)
    if random.integers(2):
        return kind.__name__, {newest[0].name}
    DAMAGES[random.integers(len(DAMAGES))](newest[1], random)
    return kind.__name__, {path.name for path in newest[:2]}


def is_refused(path):
    """Return whether a checkpoint is not taken for a good one when it is named."""
    try:
        verify(path)
    except CheckpointError:
        return True
    return False


def is_state_of(path, step):
    """Return whether what is read from a checkpoint is the state of a step, to the bit."""
    state = TrainingState(path, SHAPES)
    return all(
        torch.equal(tensor, state(name)[key])
        for name, tensors in parameters(step)
        for key, tensor in tensors.items()
    )


def run(trials: int, seed: int) -> dict[str, object]:
    """Inject `trials` faults, load as many clean folders, and return what came of them."""
    random = np.random.default_rng(seed)
    alarms, log = Alarms(), logging.getLogger("mindeye_dist.runs.checkpoints")
    counts, kinds = Counter(), Counter()
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    log.addHandler(alarms)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            good = Checkpoints(f"{scratch}/good", len(STEPS))
            for step in STEPS:
                save(good, step)
            for number in range(trials):
                folder = shutil.copytree(good.folder, Path(scratch, "run", "checkpoints"))
                counts += load_clean(folder, alarms)
                kind, damaged = inject(folder, number, random)
                kinds[kind] += 1
                counts += load_damaged(folder, damaged, alarms)
                shutil.rmtree(folder)
    finally:
        log.removeHandler(alarms)
        signal.signal(signal.SIGXFSZ, handler)
    names = ("injections", "accepted", "wrong_fallback", "clean_loads", "false_alarms")
    return {"kinds": dict(sorted(kinds.items())), **{name: counts[name] for name in names}}


def load_clean(folder, alarms):
    """Load what nothing was done to."""
    newest = Checkpoints(str(folder.parent), 1).newest()
    right = newest == folder / checkpoint_name(STEPS[-1]) and is_state_of(newest, STEPS[-1])
    alarmed = alarms.about([path.name for path in folder.iterdir()])
    return Counter(clean_loads=1, false_alarms=int(alarmed > 0 or not right))


def load_damaged(folder, damaged, alarms):
    """Load after a fault, and look at all that was damaged."""
    newest = Checkpoints(str(folder.parent), 1).newest()
    expected = max(step for step in STEPS if checkpoint_name(step) not in damaged)
    accepted = sum(not is_refused(folder / name) for name in damaged)
    right = newest == folder / checkpoint_name(expected) and is_state_of(newest, expected)
    sound = {checkpoint_name(step) for step in STEPS} - damaged
    return Counter(
        injections=1,
        accepted=accepted + int(newest is not None and newest.name in damaged),
        wrong_fallback=int(not right),
        false_alarms=alarms.about(sound),
    )


if __name__ == "__main__":
    bounds = dict.fromkeys(("accepted", "wrong_fallback", "false_alarms"), NEVER)
    record(Path(sys.argv[1]), "checkpoint_faults", run(TRIALS, 0), bounds)
