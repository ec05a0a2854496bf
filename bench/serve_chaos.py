"""The service under kills and under far more than it can answer, on a cluster of its own.

A replica, of the gateway and of the predictor in turn, each of which there are two, is killed every
five seconds while the client calls embed and retrieve. And for ten seconds four times, then ten
times the calls come that the service can answer, at a constant rate, whether others were answered
or not. Both as Serve is by default and behind HAProxy; the overload also with the same routes under
plain uvicorn. The client takes its part of the same cores. Prints what came of it and writes
runs/bench.json.
"""

import itertools
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import requests
from rich.console import Console
from rich.table import Table

from bench.serve import MODES, plain
from serve.client import Client
from tests.ray_cluster import deployed, replicas
from tests.serve.load import flood, memory, under_load

SECONDS, EVERY = 120.0, 5.0
TIMES, OVERLOADED = (4, 10), 10.0
"""Of the calls that can be answered: how many times as many come, and for how long (seconds)."""


def main(out: Path, run_dir: str) -> None:
    """Run both, print the table and write the figures."""
    one = {"run_dir": str(Path(run_dir).resolve()), "pictures": False}
    two = {f"{name}.{end}_replicas": 2 for name in KILLED for end in ("min", "max")}
    figures = {}
    with plain(one) as (url, token):
        peer = SimpleNamespace(url=url, token=token)
        figures |= overload("uvicorn", peer)
        show(figures)
    for mode, variables in MODES.items():
        with running(one, variables) as service:
            sizes = [sum(memory(service).values())]
            figures |= overload(mode, service)
            sizes += [sum(memory(service, kind).values()) for kind in ("VmHWM", "VmRSS")]
            named = zip(("before", "peak", "after"), sizes, strict=True)
            figures[mode] = {f"MiB {name}": round(size / 2**20) for name, size in named}
            show(figures)
        with running(one | two, variables) as service:
            figures[f"{mode}: kills"] = kills(service, draw_brains(service))
            show(figures)
    out.parent.mkdir(parents=True, exist_ok=True)
    found = json.loads(out.read_text()) if out.exists() else {}
    out.write_text(json.dumps({**found, "serve_chaos": figures}, indent=1))


@contextmanager
def running(arguments: dict, variables: dict) -> Iterator[SimpleNamespace]:
    """Yield the service on a cluster of its own."""
    with (
        tempfile.TemporaryDirectory() as folder,
        deployed(arguments, folder, **variables) as service,
    ):
        yield service


def show(figures) -> None:
    """Print the figures so far."""
    table = Table("", "", title="the service under kills and overload")
    for part, values in figures.items():
        for name, value in values.items():
            table.add_row(f"{part}: {name}", str(value))
    Console().print(table)


KILLED = {"predictor": "Predictor", "gateway": "Gateway"}


def percentile(values, q) -> float | None:
    """Return a percentile, rounded; None of nothing."""
    return round(float(np.percentile(values, q)), 1) if len(values) else None


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


def overload(mode, service) -> dict:
    """Send a multiple of what can be answered, at a constant rate; return what came of each."""
    brains, figures = draw_brains(service), {}
    begun = time.perf_counter()
    flood(service, brains, calls=400, at_once=8)
    can = 400 / (time.perf_counter() - begun)
    headers = {"Authorization": f"Bearer {service.token}"}
    for times in TIMES:
        begun = time.perf_counter()
        seconds = flood(service, brains, calls=int(times * can * OVERLOADED), rate=times * can)
        took = time.perf_counter() - begun
        refused = 1000 * np.array([s for status in (429, 503) for s in seconds.get(status, [])])
        begun = time.perf_counter()
        requests.get(f"{service.url}/v1/model", headers=headers, timeout=30).raise_for_status()
        figures[f"{mode}: {times} x {can:.0f} calls a second"] = {
            "until all were answered or refused, s": round(took, 1),
            "statuses": {k: len(v) for k, v in sorted(seconds.items())},
            **{f"refused in ms, p{q}": percentile(refused, q) for q in (50, 99)},
            "first answer after it, ms": round(1000 * (time.perf_counter() - begun), 1),
        }
    return figures


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
