"""The guard's log of busy refusals. Oracle: the number of refused requests."""

import asyncio
import json

from serve.guard import Guard, RequestObserver
from serve.settings import Limits


def test_busy_refusals_are_logged_as_one_count_a_second(monkeypatch, caplog):
    """Two bursts, with no request after them."""
    monkeypatch.setattr("serve.guard.BUSY_LOG_SECONDS", 0.02)
    caplog.set_level("INFO", logger="ray.serve.mindeye")
    statuses = []

    async def note(message):
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    async def bursts():
        gate = asyncio.Event()

        async def routes(scope, receive, send):
            await gate.wait()
            await send({"type": "http.response.start", "status": 200})

        guard = Guard(routes, None, Limits(in_flight=1), RequestObserver())
        scope = {"type": "http", "path": "/v1/embed", "query_string": b"", "headers": []}

        async def ask():
            await guard({**scope, "method": "POST"}, None, note)

        first = asyncio.ensure_future(ask())
        await asyncio.sleep(0)
        for count in (5, 2):
            for _ in range(count):
                await ask()
            await asyncio.sleep(0.1)
        gate.set()
        await first

    asyncio.run(bursts())
    assert statuses == [429] * 7 + [200]
    lines = [json.loads(record.message) for record in caplog.records]
    assert [line["count"] for line in lines if line.get("refused") == "busy"] == [5, 2]
    assert [line["status"] for line in lines if "status" in line] == [200]
