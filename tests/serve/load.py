"""Not a test: load on a service, by clients that repeat what may be repeated, or by a flood."""

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
    """What came of the calls."""

    versions: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def call(self, client, task, voxels):
        """Make a call and note what came of it."""
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
    """Call embed and retrieve without end from threads while the body runs; yield the Load."""
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
    """Send calls, none repeated, and return the seconds that each took by its status.

    At a constant rate (1/s), whether earlier ones were answered or not, as from clients who do not
    know of each other; or always so many at once. The client is plain sockets, as it takes its time
    from the same cores as the service.
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
    """Makes the same call again and again over sockets, as many as it takes."""

    def __init__(self, service, brain, path):
        place, body = urlsplit(service.url), npy.encode(brain)
        head = {"Host": place.netloc, "Authorization": f"Bearer {service.token}", **NPY}
        lines = [f"POST {path} HTTP/1.1", *(f"{k}: {v}" for k, v in head.items())]
        head = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""])
        self._request, self._place = head.encode() + body, (place.hostname, place.port)
        self.idle, self.seconds = [], defaultdict(list)

    async def call(self):
        """Make a call and note how long it took."""
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
    """Return the bytes of each process of the service's replicas and of Serve's proxy, by its pid.

    Resident ones; at most, by "VmHWM"; or those of its own, without files' pages, by "RssAnon".
    """
    proxies = processes(service.environment, "ProxyActor")
    found = {}
    for process in [*replicas(service.environment), *proxies]:
        with suppress(OSError):  # it has just been killed
            about = Path(f"/proc/{process.pid}/status").read_text()
            found[process.pid] = 1024 * int(re.search(f"{what}:\\s+(\\d+)", about)[1])
    return found
