"""The service under kills and under far more than it can answer, on a cluster of its own.

A replica, of the gateway and of the predictor in turn, is killed every five seconds while the
client calls embed and retrieve; and ten times the calls that it can answer come at once. Both as
Serve is by default and behind HAProxy; the overload also with the same routes under plain uvicorn,
as the time of a refusal is that of cores which the client shares. Prints what came of it and writes
runs/bench.json.
"""

import itertools
import json
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import requests
from rich.console import Console
from rich.table import Table

from serve.client import Client
from tests.bench.serve import MODES, plain
from tests.ray_cluster import deployed, replicas
from tests.serve.load import flood, memory, under_load

SECONDS, EVERY = 120.0, 5.0
AT_ONCE = 600
"""Connections of the overload; a gateway works on 64 at once."""


def main(out: Path, run_dir: str) -> None:
    """Run both, print the table and write the figures."""
    arguments = {
        "run_dir": str(Path(run_dir).resolve()),
        "pictures": False,
        **{f"{name}.{end}_replicas": 2 for name in KILLED for end in ("min", "max")},
    }
    figures = {}
    with plain(arguments) as (url, token):
        peer = SimpleNamespace(url=url, token=token)
        figures["uvicorn: overload"] = overload(peer, draw_brains(peer))
        show(figures)
    for mode, variables in MODES.items():
        with (
            tempfile.TemporaryDirectory() as folder,
            deployed(arguments, folder, **variables) as service,
        ):
            brains = draw_brains(service)
            with weighed(service) as weights:
                figures[f"{mode}: overload"] = overload(service, brains)
            figures[f"{mode}: overload"] |= weights
            show(figures)
            figures[f"{mode}: kills"] = kills(service, brains)
            show(figures)
    out.parent.mkdir(parents=True, exist_ok=True)
    found = json.loads(out.read_text()) if out.exists() else {}
    out.write_text(json.dumps({**found, "serve_chaos": figures}, indent=1))


def show(figures) -> None:
    """Print the figures so far."""
    table = Table("", "", title="the service under kills and overload")
    for part, values in figures.items():
        for name, value in values.items():
            table.add_row(f"{part}: {name}", str(value))
    Console().print(table)


KILLED = {"predictor": "Predictor", "gateway": "Gateway"}


def kills(service, brains) -> dict:
    """Kill a replica every few seconds under load."""
    killed = 0
    with under_load(service, brains, threads=4) as load:
        end = time.monotonic() + SECONDS
        for deployment in itertools.cycle(KILLED.values()):
            if time.monotonic() > end:
                break
            for victim in replicas(service.environment, deployment)[:1]:
                victim.kill()
                killed += 1
            time.sleep(EVERY)
    latencies = 1000 * np.array(load.seconds)
    return {
        "seconds": SECONDS,
        "replicas killed": killed,
        "calls answered": len(load.seconds),
        "calls failed": len(load.failures),
        "p50 ms": round(float(np.percentile(latencies, 50)), 1),
        "p99 ms": round(float(np.percentile(latencies, 99)), 1),
        "slowest ms": round(float(latencies.max()), 1),
        **({"first failure": load.failures[0][:300]} if load.failures else {}),
    }


def draw_brains(service) -> np.ndarray:
    """Return brains of random numbers that the service takes."""
    with Client(service.url, service.token) as client:
        num_voxels = client.model().num_voxels
    return np.random.default_rng(0).standard_normal((8, num_voxels)).astype(np.float32)


@contextmanager
def weighed(service) -> Iterator[dict]:
    """Yield what gets the most memory (MiB) that the service takes while the body runs."""
    sizes, stop = [memory(service)], threading.Event()

    def watch() -> None:
        while not stop.wait(0.5):
            sizes.append(memory(service))

    watcher = threading.Thread(target=watch)
    watcher.start()
    weights: dict = {}
    try:
        yield weights
    finally:
        stop.set()
        watcher.join()
        sizes.append(memory(service))
        named = {"before": sizes[0], "peak": max(sizes), "after": sizes[-1]}
        weights |= {f"memory MiB, {name}": round(size / 2**20) for name, size in named.items()}


def overload(service, brains) -> dict:
    """Send ten times what can be answered, from many connections at once."""
    begun = time.perf_counter()
    alone = flood(service, brains, calls=300, at_once=8)
    rate = 300 / (time.perf_counter() - begun)
    begun = time.perf_counter()
    seconds = flood(service, brains, calls=int(100 * rate), at_once=AT_ONCE)
    took = time.perf_counter() - begun
    refused = 1000 * np.array([s for status in (429, 503) for s in seconds.get(status, [])])
    begun = time.perf_counter()
    headers = {"Authorization": f"Bearer {service.token}"}
    requests.get(f"{service.url}/v1/model", headers=headers, timeout=30).raise_for_status()
    return {
        "calls a second that it can answer": round(rate),
        "calls a second that came": round(int(100 * rate) / took),
        "statuses without overload": {k: len(v) for k, v in alone.items()},
        "statuses": {k: len(v) for k, v in sorted(seconds.items())},
        "refused in ms, p50": round(float(np.percentile(refused, 50)), 1),
        "refused in ms, p99": round(float(np.percentile(refused, 99)), 1),
        "first answer after it, ms": round(1000 * (time.perf_counter() - begun), 1),
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
