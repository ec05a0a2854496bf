"""Loader samples a second of one core, against webdataset and a plain read, in turn in one process.

Shards of the published sizes: 15,724 voxels, three repeats, 257 x 768 targets, JPEGs of 425 pixels.
Ours: every sample once in training order, voxels and cached targets, by ranges, each checked, one
repeat drawn as the published high-level recipe does, ready as batches. Peers: webdataset decoding
the published sample, as the published loader does, which has no targets yet; webdataset reading and
decoding the same members, which makes no batches of them; a plain read of the same bytes with their
checksums. From disk, from a real S3 server, and from the memory in which what came from S3 is kept.
The seconds are those of this process's cores, so that threads give no advantage.
"""

import importlib
import io
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import fsspec
import webdataset
import xxhash
from PIL import Image
from rich.console import Console
from rich.table import Table

from mindeye_dist.config import DataConfig
from mindeye_dist.data.dataset import Dataset
from mindeye_dist.data.loader import TrainLoader
from mindeye_dist.data.manifest import read_manifest
from mindeye_dist.data.shards import VOXELS
from mindeye_dist.simulation.scenes import render_scene
from mindeye_dist.storage.store import Store
from tests.conftest import write_random_subject
from tests.remote_shards import copy, open_loader
from tests.s3 import server

PAIRS, SAMPLES = 7, 320
NUM_VOXELS, TOKENS, SIDE = 15_724, (257, 768), 425
PUBLISHED, SAME, PLAIN = "webdataset, published sample", "webdataset, same members", "plain read"
OURS = ("from disk", "from memory", "from S3")


def main(out: Path) -> None:
    """Run the pairs, print the table and write the figures."""
    with tempfile.TemporaryDirectory() as folder, on_s3(Path(folder)) as url:
        local = f"{folder}/local"
        write_random_subject(local, NUM_VOXELS, TOKENS, SAMPLES, photo)
        copy(Path(local), Store(url))
        config = DataConfig(
            url=local, targets="random", augmented=False, cache_gib=0.0, repeat_draw="cycle"
        )
        disk, s3 = open_loader(config), open_loader(replace(config, url=url))
        memory = open_loader(replace(config, url=url, cache_gib=4.0))
        read_ours(memory)
        runs: dict[str, Callable[[], int]] = {
            PUBLISHED: lambda: read_published(local),
            SAME: lambda: read_same(local),
            f"{SAME}, S3": lambda: read_same(url),
            PLAIN: lambda: read_plainly(disk.dataset),
            "from disk": lambda: read_ours(disk),
            "from memory": lambda: read_ours(memory),
            "from S3": lambda: read_ours(s3),
        }
        rates: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(PAIRS):
            for name, run in runs.items():
                begun = time.process_time()
                rates[name].append(run() / (time.process_time() - begun))
        figures = {"coverage of an epoch": coverage(disk), **summarise(rates)}
    out.parent.mkdir(parents=True, exist_ok=True)
    found = json.loads(out.read_text()) if out.exists() else {}
    out.write_text(json.dumps({**found, "loader": figures}, indent=1))
    show(figures)


@contextmanager
def on_s3(folder: Path) -> Iterator[str]:
    """Run an S3 server and yield a prefix of it."""
    place = folder / "s3"
    place.mkdir()
    with server(place) as environment, mock.patch.dict(os.environ, environment):
        yield "s3://lab/bench"


def photo(number: int) -> bytes:
    """Return a rendered scene as a JPEG of the published size."""
    buffer = io.BytesIO()
    scene = Image.fromarray(render_scene(number, seed=0).picture)
    scene.resize((SIDE, SIDE)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def read_ours(loader: TrainLoader) -> int:
    """Read an epoch and return its samples."""
    steps = len(loader.dataset) // loader.global_batch_size
    return sum(len(batch.keys) for batch in loader.batches(0, steps, 0, 1))


def coverage(loader: TrainLoader) -> float:
    """Return the share of the pictures that an epoch shows."""
    steps = len(loader.dataset) // loader.global_batch_size
    shown = {key for batch in loader.batches(0, steps, 0, 1) for key in batch.keys}
    return len(shown) / len(loader.dataset)


def shards(url: str) -> tuple[list[str], list[str]]:
    """Return the URLs of the samples' shards and of their targets'."""
    subject = read_manifest(Store(url)).subject("subj01")
    parts = (subject.splits["train"], subject.targets["random"].splits["train"])
    samples, targets = ([f"{url}/{shard.path}" for shard in part] for part in parts)
    return samples, targets


def read_published(url: str) -> int:
    """Read and decode whole samples with webdataset and return how many."""
    dataset = webdataset.WebDataset(shards(url)[0], shardshuffle=False).decode("torch")
    return sum(1 for _ in dataset)


def read_same(url: str) -> int:
    """Read and decode the same members with webdataset and return the samples."""
    schemes = importlib.import_module("webdataset.gopen").gopen_schemes
    schemes["s3"] = lambda url, mode="rb", *_, **__: fsspec.open(url, mode).open()
    only = [VOXELS, "num_uniques.npy", "clip_tokens.npy"]
    pipelines: list[Any] = [
        webdataset.WebDataset(part, shardshuffle=False).decode(only=only) for part in shards(url)
    ]
    return sum(1 for _ in zip(*pipelines, strict=True))


def read_plainly(dataset: Dataset) -> int:
    """Read the same bytes, member by member, with their checksums and nothing else."""
    files: dict[str, Any] = {}
    for samples, names in (
        (dataset.samples, (VOXELS, "num_uniques.npy")),
        (dataset.sources["clip_tokens"]._samples, ("clip_tokens.npy",)),
    ):
        for sample in samples:
            if sample.shard not in files:
                files[sample.shard] = open(f"{dataset.store.url}/{sample.shard}", "rb")  # noqa: SIM115
            for name in names:
                member, file = sample.members[name], files[sample.shard]
                file.seek(member.offset)
                data = file.read(member.size)
                assert xxhash.xxh3_64_hexdigest(data) == member.checksum
    for file in files.values():
        file.close()
    return len(dataset)


def summarise(rates: dict[str, list[float]]) -> dict[str, dict[str, Any]]:
    """Return each way's median rate, and ours as ratios to the peers', run by run."""
    rows: dict[str, dict[str, Any]] = {}
    for name, values in rates.items():
        row: dict[str, Any] = {"samples per core second": statistics.median(values)}
        for peer in (PUBLISHED, SAME, f"{SAME}, S3", PLAIN) if name in OURS else ():
            ratios = [a / b for a, b in zip(values, rates[peer], strict=True)]
            row[f"to {peer}"] = [min(ratios), statistics.median(ratios), max(ratios)]
        rows[name] = {**row, "runs": len(values)}
    return rows


def show(figures: dict[str, Any]) -> None:
    """Print the figures as a table."""
    table = Table(f"loader, {figures['coverage of an epoch']:.0%} of the pictures", "per core s")
    peers = (PUBLISHED, SAME, f"{SAME}, S3", PLAIN)
    for peer in peers:
        table.add_column(f"to {peer}")
    for name, row in figures.items():
        if not isinstance(row, dict):
            continue
        ratios = [row.get(f"to {peer}") for peer in peers]
        words = [f"{r[1]:.2f} ({r[0]:.2f} .. {r[2]:.2f})" if r else "" for r in ratios]
        table.add_row(name, f"{row['samples per core second']:.0f}", *words)
    Console().print(table)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
