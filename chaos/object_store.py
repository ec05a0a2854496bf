"""Training reads through an S3 server that fails: right bytes, no abort, little lost.

A real S3 server behind two proxies, one of which makes faults (proxy.py), is read in turn through
both, by the training loader, batches ahead and nothing cached. Oracle: the batches from a local
folder.
"""

import os
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from math import inf
from pathlib import Path
from unittest import mock

from s3fs import S3FileSystem

from chaos.proxy import ISSUE, Faults, counts, proxy
from chaos.record import NEVER, record
from mindeye_dist.config import DataConfig
from mindeye_dist.errors import DataError
from mindeye_dist.storage.store import Store
from tests.conftest import write_random_subject
from tests.remote_shards import BATCH, copy, open_loader
from tests.s3 import server

NUM_VOXELS, TOKENS = 4000, (65, 256)
"""Voxels and targets of 24 and 33 kB."""


def run(samples: int = 1024, pairs: int = 5, faults: Faults = ISSUE) -> dict[str, object]:
    """Read the batches of an epoch through both proxies, pair by pair; return what came of it."""
    with tempfile.TemporaryDirectory() as folder:
        local, place = Path(folder, "local"), Path(folder, "s3")
        place.mkdir()
        write_random_subject(str(local), NUM_VOXELS, TOKENS, samples)
        config = DataConfig(url=str(local), targets="random", augmented=False, cache_gib=0.0)
        expected = epoch(open_loader(config))
        with server(place) as environment, mock.patch.dict(os.environ, environment):
            S3FileSystem.clear_instance_cache()  # there may be one that knows another server
            copy(local, Store("s3://lab/chaos"))
            remote = replace(config, url="s3://lab/chaos")
            backend = environment["AWS_ENDPOINT_URL"]
            quiet = Faults(latency=faults.latency)
            with proxy(backend, quiet) as calm, proxy(backend, faults) as rough:
                try:
                    return compare(remote, {"calm": calm, "rough": rough}, expected, pairs)
                finally:
                    S3FileSystem.clear_instance_cache()  # these know servers that end here


def compare(config, urls, expected, pairs):
    """Read through each URL in turn, `pairs` times, and compare batches, times and requests."""
    loaders = {name: opened_through(config, url) for name, url in urls.items()}
    begun = {name: counts(url) for name, url in urls.items()}
    rates = {name: [] for name in urls}
    wrong, aborts, said = 0, 0, []
    for _ in range(pairs):
        for name, loader in loaders.items():
            started = time.perf_counter()
            try:
                wrong += sum(a != b for a, b in zip(epoch(loader), expected, strict=True))
            except DataError as error:
                aborts += 1
                said.append(str(error)[:300])
            rates[name].append(len(loader.dataset) / (time.perf_counter() - started))
    made = {
        name: {k: v - begun[name].get(k, 0) for k, v in counts(url).items()}
        for name, url in urls.items()
    }
    ratios = [a / b for a, b in zip(rates["rough"], rates["calm"], strict=True)]
    store = loaders["rough"].dataset.store.counts
    return {
        "pairs": pairs,
        "samples": len(loaders["rough"].dataset),
        "wrong batches": wrong,
        "aborts": aborts,
        **({"said": said} if said else {}),
        "samples/s calm": statistics.median(rates["calm"]),
        "samples/s rough": statistics.median(rates["rough"]),
        "throughput ratio": statistics.median(ratios),
        "throughput ratio range": [min(ratios), max(ratios)],
        "requests ratio": made["rough"]["GET"] / made["calm"]["GET"],
        "faults made": {k: v for k, v in made["rough"].items() if k != "GET"},
        "retries": store.retries,
        "hedges": store.hedges,
    }


def opened_through(config, url):
    """Return a loader whose S3 client goes through a proxy."""
    with mock.patch.dict(os.environ, {"AWS_ENDPOINT_URL": url}):
        S3FileSystem.clear_instance_cache()
        return open_loader(config)


def epoch(loader):
    """Return the bytes of an epoch's batches, in a short form."""
    steps = len(loader.dataset) // BATCH
    return [
        (batch.keys, hash(batch.voxels.numpy().tobytes()), hash_of(batch))
        for batch in loader.batches(0, steps, 0, 1)
    ]


def hash_of(batch):
    """Return a hash of a batch's targets."""
    return hash(batch.targets["clip_tokens"].numpy().tobytes())


if __name__ == "__main__":
    bounds = {
        "wrong batches": NEVER,
        "aborts": NEVER,
        "throughput ratio": (0.8, inf),
        "requests ratio": (0, 1.2),
    }
    record(Path(sys.argv[1]), "object_store", run(), bounds)
