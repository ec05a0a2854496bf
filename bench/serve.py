"""What Ray Serve adds: embed and retrieve by the bare call, by plain uvicorn, and by Ray Serve.

The same routes, guard and models in all, each service in processes of its own; Ray Serve as it is
by default, and in its mode for many requests, with HAProxy before the replicas. Calls come from
this process, in turn, with one connection for latencies and with eight for requests a second. Every
answer is compared with the bare call's. Prints a table and writes runs/bench.json.
"""

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import aiohttp
import numpy as np
from rich.console import Console
from rich.table import Table

from jobs.opening.checkpoints import chosen_checkpoint
from mindeye_dist.data.shards import decode_npy
from mindeye_dist.storage import npy
from serve.client import NPY
from serve.retriever import Retriever, version_of
from serve.settings import read_settings
from tests.local_service import serving
from tests.ray_cluster import deployed

ROUNDS, CALLS, CONNECTIONS = 7, 100, 8
MODES = {
    "Ray Serve": {},
    "Serve, HAProxy": {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"},
}
TASKS = {"embed": "/v1/embed", "retrieve": "/v1/retrieve?k=5"}
HEADERS = {**NPY, "Accept": NPY["Content-Type"]}


def main(out: Path, run_dir: str) -> None:
    """Run the rounds, print the table and write the figures."""
    arguments = {"run_dir": str(Path(run_dir).resolve()), "pictures": False}
    settings = read_settings(arguments)
    path, _ = chosen_checkpoint(settings)
    retriever = Retriever(settings, path, version_of(path, settings.name), "cpu")
    rows = np.random.default_rng(0).standard_normal((16, retriever.card("", 0).num_voxels))
    rows = rows.astype(np.float32)
    with ExitStack() as stack:
        places = {"uvicorn": stack.enter_context(plain(arguments))}
        for name, variables in MODES.items():
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            service = stack.enter_context(deployed(arguments, folder, **variables))
            places[name] = (service.url, service.token)
        figures = {task: measure(task, retriever, rows, places) for task in TASKS}
    out.parent.mkdir(parents=True, exist_ok=True)
    found = json.loads(out.read_text()) if out.exists() else {}
    out.write_text(json.dumps({**found, "serve": figures}, indent=1))
    show(figures)


@contextmanager
def plain(arguments):
    """Run the service by plain uvicorn in a process of its own; yield its URL and token."""
    command = [sys.executable, "-m", "bench.serve", "--plain", json.dumps(arguments)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())
        process.communicate("\n", timeout=60)


def serve_plainly(arguments) -> None:
    """Be that process, until a line comes in."""
    with tempfile.TemporaryDirectory() as folder, serving(arguments, folder) as service:
        sys.stdout.write(json.dumps([service.url, service.token]) + "\n")
        sys.stdout.flush()
        sys.stdin.readline()


def measure(task, retriever, rows, places):
    """Return latencies (ms) and requests a second by place, and what Ray Serve adds."""
    compute = retriever.embed if task == "embed" else retriever.retrieve
    requests = [row if task == "embed" else (row, 5, "none") for row in rows]
    expected = [compute([request])[0] for request in requests]
    for place in places.values():
        asyncio.run(check(task, rows, expected, *place))
    seconds = {name: [] for name in ("bare call", *places)}
    rates = {name: [] for name in seconds}
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        seconds["bare call"] += [timed(compute, requests[n % len(rows)]) for n in range(CALLS)]
        rates["bare call"].append(CALLS / (time.perf_counter() - begun))
        for name, place in places.items():
            seconds[name] += asyncio.run(calls(task, rows, *place, connections=1))
            begun = time.perf_counter()
            asyncio.run(calls(task, rows, *place, connections=CONNECTIONS))
            rates[name].append(CALLS / (time.perf_counter() - begun))
    return summarise(seconds, rates)


def timed(compute, request):
    """Return the seconds of one call of the models."""
    begun = time.perf_counter()
    compute([request])
    return time.perf_counter() - begun


async def check(task, rows, expected, url, token):
    """See that a place answers as the bare call does."""
    headers = {**HEADERS, "Authorization": f"Bearer {token}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        for row, own in zip(rows, expected, strict=True):
            async with session.post(url + TASKS[task], data=npy.encode(row)) as reply:
                body = await reply.read()
                assert reply.status == 200, body
            if task == "embed":
                np.testing.assert_allclose(decode_npy(body, url), own.embedding, atol=1e-6)
            else:
                found = [match["number"] for match in json.loads(body)["matches"]]
                assert found == [match.number for match in own.matches]


async def calls(task, rows, url, token, *, connections):
    """Return the seconds of each of `CALLS` calls."""
    headers = {**HEADERS, "Authorization": f"Bearer {token}"}
    bodies, left, seconds = [npy.encode(row) for row in rows], iter(range(CALLS)), []
    async with aiohttp.ClientSession(headers=headers) as session:

        async def work():
            for number in left:
                begun = time.perf_counter()
                body = bodies[number % len(bodies)]
                async with session.post(url + TASKS[task], data=body) as reply:
                    await reply.read()
                    assert reply.status == 200
                seconds.append(time.perf_counter() - begun)

        await asyncio.gather(*(work() for _ in range(connections)))
    return seconds


def summarise(seconds, rates):
    """Return the figures of a task by place."""
    rows = {
        name: {
            "p50_ms": 1000 * float(np.percentile(values, 50)),
            "p99_ms": 1000 * float(np.percentile(values, 99)),
            "per_second": statistics.median(rates[name]),
            "per_second_range": [min(rates[name]), max(rates[name])],
        }
        for name, values in seconds.items()
    }
    for mode in MODES:
        for percentile in ("p50_ms", "p99_ms"):
            for peer in ("uvicorn", "bare call"):
                added = rows[mode][percentile] - rows[peer][percentile]
                rows[mode][f"{percentile}_over_{peer.split()[0]}"] = added
    return {"rounds": ROUNDS, "calls": CALLS, "connections": CONNECTIONS, "places": rows}


def show(figures):
    """Print the figures as a table."""
    table = Table(title=f"one connection: ms; {CONNECTIONS} connections: requests a second")
    for column in ("", "p50", "p99", "requests/s", "Serve adds to uvicorn, p50 / p99"):
        table.add_column(column, justify="right" if column else "left")
    for task, measured in figures.items():
        for name, row in measured["places"].items():
            added = [row.get(f"{p}_ms_over_uvicorn") for p in ("p50", "p99")]
            words = " / ".join(f"{value:.1f} ms" for value in added if value is not None)
            times = (f"{row['p50_ms']:.2f}", f"{row['p99_ms']:.2f}", f"{row['per_second']:.0f}")
            table.add_row(f"{task}, {name}", *times, words)
    Console().print(table)


if __name__ == "__main__":
    if sys.argv[1] == "--plain":
        serve_plainly(json.loads(sys.argv[2]))
    else:
        main(Path(sys.argv[1]), sys.argv[2])
