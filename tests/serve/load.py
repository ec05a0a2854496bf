"""Not a test: load on a service, by clients that repeat what may be repeated, or by a flood."""

import asyncio
import threading
import time
from collections import defaultdict
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import aiohttp
import psutil
import requests

from mindeye_dist.data import npy
from serve.client import NPY, Client, ServiceError
from tests.ray_cluster import replicas


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


def flood(service, voxels, path="/v1/embed", calls=1000, at_once=300):
    """Send calls from many connections at once, none repeated; return seconds by status."""
    return asyncio.run(_flood(service, voxels, path, calls, at_once))


async def _flood(service, voxels, path, calls, at_once):
    seconds, left = defaultdict(list), iter(range(calls))
    body = npy.encode(voxels[0])
    headers = {"Authorization": f"Bearer {service.token}", **NPY}

    async def work(session):
        for _ in left:
            begun = time.perf_counter()
            async with session.post(service.url + path, data=body, headers=headers) as reply:
                await reply.read()
            if reply.status == 429:
                assert int(reply.headers["Retry-After"]) >= 1
            seconds[reply.status].append(time.perf_counter() - begun)

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        await asyncio.gather(*(work(session) for _ in range(at_once)))
    return dict(seconds)


def memory(service):
    """Return the resident bytes of the service's replicas and of Serve's proxy."""
    proxies = [
        process
        for process in psutil.Process(int(service.environment["RAY_HEAD_PID"])).children(True)
        if "ProxyActor" in " ".join(process.cmdline())
    ]
    total = 0
    for process in [*replicas(service.environment), *proxies]:
        with suppress(psutil.NoSuchProcess):  # it has just been killed
            total += process.memory_info().rss
    return total
