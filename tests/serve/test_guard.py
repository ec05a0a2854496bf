"""What the guard writes down of those it turns away. Oracle: how many were."""

import asyncio
import json

from serve.guard import Guard, Watch
from serve.settings import Limits


def test_those_turned_away_are_counted_in_one_line_a_second(monkeypatch, caplog):
    now = [100.0]
    monkeypatch.setattr("serve.guard.time.monotonic", lambda: now[0])
    caplog.set_level("INFO", logger="ray.serve.mindeye")
    statuses, gate = [], asyncio.Event()

    async def routes(scope, receive, send):
        await gate.wait()
        await send({"type": "http.response.start", "status": 200})

    async def note(message):
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    guard = Guard(routes, None, Limits(in_flight=1), Watch())
    scope = {"type": "http", "path": "/v1/embed", "query_string": b"", "headers": []}

    async def ask():
        await guard({**scope, "method": "POST"}, None, note)

    async def flood():
        first = asyncio.ensure_future(ask())
        await asyncio.sleep(0)
        for now[0] in (100.0, 100.2, 100.4, 101.3, 101.4, 102.5):
            await ask()
        gate.set()
        await first

    asyncio.run(flood())
    assert statuses == [429] * 6 + [200]
    lines = [json.loads(record.message) for record in caplog.records]
    assert [line["count"] for line in lines if line.get("refused") == "busy"] == [1, 3, 2]
    assert [line["status"] for line in lines if "status" in line] == [200]
