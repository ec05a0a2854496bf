"""Not a test: load on a service, from clients that retry, or from a flood without retries."""

import asyncio
import re
import threading
import time
from collections import defaultdict
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import requests

from mindeye_dist.storage import npy
from serve.client import NPY, Client, ServiceError
from tests.ray_cluster import processes, replicas

NO_ANSWER = 0
"""Status of a call whose connection failed."""


@dataclass
class Load:
    """Outcome of the calls: the answers' model versions, latencies (s), and failures."""

    versions: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def call(self, client, task, voxels):
        """Make a call and record its outcome."""
        begun = time.perf_counter()
        try:
            answer = client.embed(voxels) if task == "embed" else client.retrieve(voxels, 3)
        except (ServiceError, requests.RequestException) as error:
            self.failures.append(str(error))
        else:
            self.seconds.append(time.perf_counter() - begun)
            self.versions.append(answer.model)


@contextmanager
def under_load(service, voxels, threads=4, pause=0.0):
    """Call embed and retrieve from threads for as long as the body runs; yield the Load."""
    load, stop = Load(), threading.Event()

    def work(number):
        with Client(service.url, service.token, timeout_s=60, retries=12) as client:
            turn = number
            while not stop.is_set():
                load.call(client, ("embed", "retrieve")[turn % 2], voxels[turn % len(voxels)])
                turn += 1
                stop.wait(pause)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    try:
        yield load
    finally:
        stop.set()
        for worker in workers:
            worker.join(120)


def flood(service, voxels, *, calls, rate=None, at_once=None, path="/v1/embed"):
    """Send calls without retries; return their latencies in seconds, by status.

    With `rate` (1/s) calls start at a constant rate, answered or not, as from independent clients;
    with `at_once` that many are always in flight. The client uses plain sockets, as it shares the
    cores with the service.
    """
    return asyncio.run(_flood(service, voxels, path, calls, rate, at_once))


async def _flood(service, voxels, path, calls, rate, at_once):
    caller = Caller(service, voxels[0], path)
    if at_once:
        left = iter(range(calls))

        async def work():
            for _ in left:
                await caller.call()

        await asyncio.gather(*(work() for _ in range(at_once)))
    else:
        sent, begun = [], time.perf_counter()
        for number in range(calls):
            await asyncio.sleep(begun + number / rate - time.perf_counter())
            sent.append(asyncio.ensure_future(caller.call()))
        await asyncio.gather(*sent)
    for _, writer in caller.idle:
        writer.close()
    return dict(caller.seconds)


class Caller:
    """Repeats one call over a pool of sockets."""

    def __init__(self, service, brain, path):
        place, body = urlsplit(service.url), npy.encode(brain)
        head = {"Host": place.netloc, "Authorization": f"Bearer {service.token}", **NPY}
        lines = [f"POST {path} HTTP/1.1", *(f"{k}: {v}" for k, v in head.items())]
        head = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""])
        self._request, self._place = head.encode() + body, (place.hostname, place.port)
        self.idle, self.seconds = [], defaultdict(list)

    async def call(self):
        """Make a call and record its latency."""
        begun = time.perf_counter()
        try:
            both = self.idle.pop() if self.idle else await asyncio.open_connection(*self._place)
            status, headers = await self._exchange(*both)
        except (OSError, asyncio.IncompleteReadError):
            self.seconds[NO_ANSWER].append(time.perf_counter() - begun)
            return
        assert status not in (429, 503) or re.search(rb"retry-after: [1-9]", headers), headers
        self.seconds[status].append(time.perf_counter() - begun)
        if b"connection: close" in headers:
            both[1].close()
        else:
            self.idle.append(both)

    async def _exchange(self, reader, writer):
        writer.write(self._request)
        headers = (await reader.readuntil(b"\r\n\r\n")).lower()
        if size := re.search(rb"content-length: (\d+)", headers):
            await reader.readexactly(int(size[1]))
        else:
            await reader.readuntil(b"\r\n0\r\n\r\n")  # Serve's own answers come in chunks
        return int(headers.split()[1]), headers


def memory(service, what="VmRSS"):
    """Return the memory in bytes of each replica and of Serve's proxy, by pid.

    `what` is a field of /proc/PID/status: "VmRSS" is resident memory, "VmHWM" its peak, "RssAnon"
    the part without pages of files.
    """
    proxies = processes(service.environment, "ProxyActor")
    found = {}
    for process in [*replicas(service.environment), *proxies]:
        with suppress(OSError):  # a process that was just killed
            about = Path(f"/proc/{process.pid}/status").read_text()
            found[process.pid] = 1024 * int(re.search(f"{what}:\\s+(\\d+)", about)[1])
    return found
