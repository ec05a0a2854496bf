"""Damaged shards: each is found and named, or does no harm; none passes silently.

A shard of a small subject is damaged in one of eleven ways at a random place, and everything of it
is read: voxels, targets, pictures. Oracle: what was written. A fault is silent where something
else came back, or something was missing, without an error.
"""

import json
import random
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from chaos.record import NEVER, record
from mindeye_dist.config import DataConfig
from mindeye_dist.data.dataset import Dataset
from mindeye_dist.data.manifest import read_manifest
from mindeye_dist.errors import DataError
from mindeye_dist.storage.store import Store
from tests.conftest import write_tiny_subject

BLOCK = 512
PLACE = re.compile(r"sample (?P<key>\S+): (?P<suffix>\S+) at byte (?P<offset>\d+)")


def cut(data: bytes, at: int, other: bytes) -> bytes:
    """Cut it short anywhere."""
    return data[:at]


def cut_between_members(data: bytes, at: int, other: bytes) -> bytes:
    """Cut it short where a header begins or ends."""
    return data[: at // BLOCK * BLOCK]


def cut_with_end(data: bytes, at: int, other: bytes) -> bytes:
    """Cut it short and end it as a tar ends."""
    return data[: at // BLOCK * BLOCK] + bytes(2 * BLOCK)


def flip(data: bytes, at: int, other: bytes) -> bytes:
    """Flip one bit."""
    return data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :]


def hole(data: bytes, at: int, other: bytes) -> bytes:
    """Put zeros in the place of 1 KiB."""
    return (data[:at] + bytes(1024) + data[at + 1024 :])[: len(data)]


def page(data: bytes, at: int, other: bytes) -> bytes:
    """Put zeros in the place of a page of 4 KiB."""
    start = at // 4096 * 4096
    return (data[:start] + bytes(4096) + data[start + 4096 :])[: len(data)]


def lost(data: bytes, at: int, other: bytes) -> bytes:
    """Lose a block."""
    start = at // BLOCK * BLOCK
    return data[:start] + data[start + BLOCK :]


def doubled(data: bytes, at: int, other: bytes) -> bytes:
    """Write a block twice."""
    start = at // BLOCK * BLOCK
    return data[: start + BLOCK] + data[start:]


def noise(data: bytes, at: int, other: bytes) -> bytes:
    """Put random bytes in the place of some."""
    return (data[:at] + random.Random(at).randbytes(100) + data[at + 100 :])[: len(data)]


def mixed(data: bytes, at: int, other: bytes) -> bytes:
    """Go on with another shard."""
    return data[:at] + other[at:]


def replaced(data: bytes, at: int, other: bytes) -> bytes:
    """Put another shard in its place."""
    return other


KINDS: tuple[Callable[[bytes, int, bytes], bytes], ...] = (
    cut,
    cut_between_members,
    cut_with_end,
    flip,
    hole,
    page,
    lost,
    doubled,
    noise,
    mixed,
    replaced,
)
PLACES = ("train/train_subj01_{}.tar", "targets/clip_tokens/train/train_subj01_{}.tar")
INDEXES = ("train/train_subj01_{}.index.json",)


def run(positions: int = 200, seed: int = 0) -> dict[str, object]:
    """Damage shards and an index in every way at so many places; return what came of it."""
    draw, outcomes = random.Random(seed), Counter()
    silent: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        write_tiny_subject(folder)
        truth = everything(folder)
        for kind in KINDS:
            for number in range(positions):
                name = draw.choice((*PLACES, *PLACES, *INDEXES))
                path, other = Path(folder, name.format(0)), Path(folder, name.format(1))
                data = path.read_bytes()
                at = draw.randrange(1, len(data))
                damaged = kind(data, at, other.read_bytes())
                path.write_bytes(damaged)
                try:
                    outcome = "harmless" if everything(folder) == truth else "silent"
                except DataError as error:
                    outcome = "named" if names(str(error), path, data, damaged) else "misnamed"
                path.write_bytes(data)
                outcomes[outcome] += 1
                if outcome in ("silent", "misnamed"):
                    silent.append(f"{kind.__name__} {number} of {name} at {at}: {outcome}")
        return {
            "kinds": len(KINDS),
            "positions of each": positions,
            "silent": outcomes["silent"],
            "not named or not in its place": outcomes["misnamed"],
            "reported with shard, key and offset": outcomes["named"],
            "harmless (padding, headers, other members)": outcomes["harmless"],
            "clean alarms": clean_alarms(folder, truth),
            "first faults that were missed": silent[:5],
        }


def names(said: str, path: Path, whole: bytes, damaged: bytes) -> bool:
    """Return whether an error names the file and, in a tar, a member behind the first damage."""
    if path.name not in said or path.suffix == ".json":
        return path.name in said
    place = PLACE.search(said)
    if place is None:
        return False
    rows = json.loads(path.with_suffix(".index.json").read_text())
    members = {row["key"]: row["members"] for row in rows}
    offset, size, _ = members[place["key"]][place["suffix"]]
    pairs = enumerate(zip(whole, damaged, strict=False))
    first = next((n for n, (a, b) in pairs if a != b), len(damaged))
    return offset == int(place["offset"]) and offset + size > first


def everything(folder: str) -> list[bytes]:
    """Return all that training and reconstruction read of the train split, each in its way."""
    store = Store(folder)
    config = DataConfig(url=folder, targets="tiny-clip_tokens")
    dataset = Dataset(
        store, read_manifest(store), config, "train", {"clip_tokens": "tiny-clip_tokens"}
    )
    indices = range(len(dataset))
    requests = [(i, 0) for i in indices]
    responses = (repeats[0] for repeats in dataset.each_voxels(indices))
    place = (0, 0, len(dataset))
    batch = dataset.batch(indices, responses, {"clip_tokens": ("clip_tokens", requests)}, place)
    arrays = [batch.voxels.numpy(), batch.targets["clip_tokens"].numpy()]
    arrays += [*dataset.voxels(indices), *dataset.targets("clip_tokens", requests)]
    return [*(array.tobytes() for array in arrays), *dataset.pictures(indices)]


def clean_alarms(folder: str, truth: list[bytes], times: int = 50) -> int:
    """Return how often an intact folder was refused or read otherwise."""
    return sum(everything(folder) != truth for _ in range(times))


if __name__ == "__main__":
    bounds = dict.fromkeys(("silent", "not named or not in its place", "clean alarms"), NEVER)
    record(Path(sys.argv[1]), "shard_faults", run(), bounds)
