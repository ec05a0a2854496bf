"""Loader samples/s against webdataset, on the same shards and fields, run in turn in one process.

Peer: webdataset's own reader and decoder over the sample shards and the target shards. Ours: every
sample once in training order, ranged reads and checksums included, nothing cached; and again from
memory. Prints the ratios and writes runs/bench.json.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import webdataset
from rich.console import Console
from rich.table import Table

from mindeye_dist.config import DataConfig, TrainingConfig
from mindeye_dist.data.loader import Dataset, TrainLoader
from mindeye_dist.data.shards import read_manifest
from mindeye_dist.data.store import Store
from tests.conftest import write_tiny_subject

PAIRS = 7
NUM_VOXELS = 15_724
SAMPLES = 400


def main(out: Path) -> None:
    """Run the pairs, print the table and write the figures."""
    with tempfile.TemporaryDirectory() as folder:
        write_tiny_subject(folder, NUM_VOXELS, {"train": SAMPLES})
        config = DataConfig(url=folder, targets="tiny-clip_tokens", augmented=False, cache_gib=0.0)
        ours = open_loader(config)
        cached = open_loader(replace(config, cache_gib=4.0))
        read_ours(cached)
        runs: dict[str, Callable[[], int]] = {
            "webdataset": lambda: read_webdataset(folder),
            "from disk": lambda: read_ours(ours),
            "from memory": lambda: read_ours(cached),
        }
        rates: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(PAIRS):
            for name, run in runs.items():
                begun = time.perf_counter()
                rates[name].append(run() / (time.perf_counter() - begun))
    figures = summarise(rates)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"loader": figures}, indent=1))
    show(figures)


def open_loader(config: DataConfig) -> TrainLoader:
    """Return a training loader of batches of 32."""
    store = Store(config.url)
    sets = {"clip_tokens": config.targets}
    dataset = Dataset(store, read_manifest(store), config, "train", sets)
    return TrainLoader(dataset, config, TrainingConfig(global_batch_size=32))


def read_ours(loader: TrainLoader) -> int:
    """Read about an epoch and return its samples."""
    steps = len(loader.dataset) // loader.global_batch_size
    return sum(len(batch.keys) for batch in loader.batches(0, steps, 0, 1))


def read_webdataset(folder: str) -> int:
    """Read and decode the same fields with webdataset and return the samples."""
    subject = read_manifest(Store(folder)).subject("subj01")
    shards = (subject.splits["train"], subject.targets["tiny-clip_tokens"].splits["train"])
    pipelines = [
        webdataset.WebDataset([f"{folder}/{s.path}" for s in part], shardshuffle=False).decode(
            only=["nsdgeneral.npy", "num_uniques.npy", "clip_tokens.npy"]
        )
        for part in shards
    ]
    return sum(1 for _ in zip(*pipelines, strict=True))


def summarise(rates: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Return each way's median rate and its ratio to webdataset's, run by run."""
    peer = rates["webdataset"]
    return {
        name: {
            "samples_per_s": statistics.median(values),
            "ratio": statistics.median(a / b for a, b in zip(values, peer, strict=True)),
            "ratio_min": min(a / b for a, b in zip(values, peer, strict=True)),
            "ratio_max": max(a / b for a, b in zip(values, peer, strict=True)),
            "pairs": len(values),
        }
        for name, values in rates.items()
    }


def show(figures: dict[str, dict[str, float]]) -> None:
    """Print the figures as a table."""
    table = Table("loader", "samples/s", "times webdataset", "range", "pairs")
    for name, row in figures.items():
        spread = f"{row['ratio_min']:.2f} .. {row['ratio_max']:.2f}"
        table.add_row(
            name, f"{row['samples_per_s']:.0f}", f"{row['ratio']:.2f}", spread, str(row["pairs"])
        )
    Console().print(table)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
