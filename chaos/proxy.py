"""Not a test: an HTTP proxy before an S3 server that does to reads what networks do to them.

    python -m chaos.proxy PORT BACKEND FAULTS_JSON

Faults are drawn from a seed, one draw for each GET of an object. `GET /-/counts` on the proxy tells
how many of each it has made.
"""

import asyncio
import json
import random
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from aiohttp import ClientSession, TCPConnector, web
from yarl import URL

from tests.s3 import free_ports

HOP = ("connection", "transfer-encoding", "content-length", "keep-alive")


@dataclass(frozen=True, kw_only=True)
class Faults:
    """Shares of the reads (0..1) that meet a fault, and how long a stall holds (seconds)."""

    busy: float = 0.0
    """503 SlowDown."""
    reset: float = 0.0
    """The connection is reset half-way through the body."""
    stall: float = 0.0
    short: float = 0.0
    """A body that ends early, and says so: half of the bytes, with a length that fits them."""
    stall_seconds: float = 30.0
    latency: float = 0.0
    """Before every answer (seconds)."""
    seed: int = 0


ISSUE = Faults(busy=0.05, reset=0.02, stall=0.01, short=0.01)
"""What issue 7 asks for."""


class Proxy:
    """Forwards requests; draws a fault for each read of an object."""

    def __init__(self, backend: str, faults: Faults) -> None:
        self._backend, self._faults = backend, faults
        self._draw = random.Random(faults.seed)
        self._counts: Counter[str] = Counter()
        self._session: ClientSession | None = None

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer a request."""
        if request.path == "/-/counts":
            return web.json_response(self._counts)
        fault = (
            self._fault() if request.method == "GET" and "list-type" not in request.query else ""
        )
        self._counts[request.method] += 1
        if fault:
            self._counts[fault] += 1
        if self._faults.latency:
            await asyncio.sleep(self._faults.latency)
        if fault == "busy":
            body = "<Error><Code>SlowDown</Code><Message>Reduce your request rate</Message></Error>"
            return web.Response(status=503, text=body, content_type="application/xml")
        if fault == "stall":
            await asyncio.sleep(self._faults.stall_seconds)
        return await self._forward(request, fault)

    def _fault(self) -> str:
        chance = self._draw.random()
        for name in ("busy", "reset", "stall", "short"):
            chance -= getattr(self._faults, name)
            if chance < 0:
                return name
        return ""

    async def _forward(self, request: web.Request, fault: str) -> web.StreamResponse:
        if self._session is None:
            self._session = ClientSession(auto_decompress=False, connector=TCPConnector(limit=0))
        url = URL(self._backend + request.raw_path, encoded=True)
        headers = {k: v for k, v in request.headers.items() if k.lower() not in HOP}
        body = await request.read()
        async with self._session.request(request.method, url, headers=headers, data=body) as reply:
            content = await reply.read()
            kept = {k: v for k, v in reply.headers.items() if k.lower() not in HOP}
            if request.method == "HEAD":
                kept["Content-Length"] = reply.headers.get("Content-Length", "0")
            if fault == "short":
                content = content[: len(content) // 2]
            if fault != "reset":
                return web.Response(status=reply.status, headers=kept, body=content)
            response = web.StreamResponse(status=reply.status, headers=kept)
            response.content_length = len(content)
            await response.prepare(request)
            await response.write(content[: len(content) // 2])
            assert request.transport is not None
            request.transport.abort()
            return response


def main(port: int, backend: str, faults: Faults) -> None:
    """Run the proxy until it is killed."""
    app = web.Application(client_max_size=2**30)
    app.router.add_route("*", "/{path:.*}", Proxy(backend, faults).handle)
    web.run_app(app, host="127.0.0.1", port=port, print=None, access_log=None)


@contextmanager
def proxy(backend: str, faults: Faults) -> Any:
    """Run a proxy in a process of its own; yield its URL."""
    (port,) = free_ports(1)
    words = [str(port), backend, json.dumps(asdict(faults))]
    process = subprocess.Popen([sys.executable, "-m", "chaos.proxy", *words])
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                counts(url)
                break
            except OSError:
                assert process.poll() is None
                assert time.monotonic() < deadline, "the proxy did not start"
                time.sleep(0.1)
        yield url
    finally:
        process.kill()
        process.wait()


def counts(url: str) -> dict[str, int]:
    """Return how many requests came by method, and how many faults were made by kind."""
    with urllib.request.urlopen(f"{url}/-/counts", timeout=10) as reply:
        found: dict[str, int] = json.load(reply)
    return found


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Faults(**json.loads(sys.argv[3])))
