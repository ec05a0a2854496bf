"""Ranged reads. Oracles: the bytes that were written, and counts by hand."""

import asyncio

import numpy as np
import pytest
from botocore.exceptions import ClientError

from mindeye_dist.storage import ranges as reading
from mindeye_dist.storage.ranges import GAP, Counts, Reader, join, tried

DATA = {name: np.random.default_rng(n).bytes(20_000) for n, name in enumerate("ab")}
BUSY = ClientError({"ResponseMetadata": {"HTTPStatusCode": 503}, "Error": {}}, "GetObject")
DENIED = ClientError({"ResponseMetadata": {"HTTPStatusCode": 403}, "Error": {}}, "GetObject")


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """Wait for nothing before another try."""
    monkeypatch.setattr(reading, "FIRST_WAIT", 0.0)


def reader(*troubles):
    """Return a reader whose requests meet troubles in turn, and its counts."""
    counts, left = Counts(), iter(troubles)

    async def fetch(path, start, end):
        trouble = next(left, None)
        if isinstance(trouble, Exception):
            raise trouble
        await asyncio.sleep(trouble if isinstance(trouble, float) else 0)
        data = DATA[path][start:end]
        return data[: len(data) // 2] if trouble == "short" else data

    return Reader(fetch, counts), counts


def read(reader, *ranges):
    return asyncio.run(reader.read(ranges))


def test_ranges_come_back_in_their_order_however_they_are_joined():
    generator = np.random.default_rng(0)
    ranges = []
    for _ in range(200):
        start, length = int(generator.integers(0, 19_000)), int(generator.integers(0, 900))
        ranges.append(("ab"[int(generator.integers(2))], start, start + length))
    ours, counts = reader()
    assert read(ours, *ranges) == [DATA[path][start:end] for path, start, end in ranges]
    assert counts.requests == len(join(ranges)) < 200


def test_only_near_ranges_of_a_path_are_joined():
    near, far = ("a", 110 + GAP, 120 + GAP), ("a", 121 + 2 * GAP, 130 + 2 * GAP)
    parts = join([far, ("a", 100, 110), near, ("b", 100, 110)])
    assert [(p.path, p.start, p.end, p.members) for p in parts] == [
        ("a", 100, near[2], [1, 2]),
        (*far, [0]),
        ("b", 100, 110, [3]),
    ]


@pytest.mark.parametrize("trouble", [BUSY, "short", ConnectionResetError(), TimeoutError()])
def test_what_fails_for_a_while_is_tried_again_and_counted(trouble):
    ours, counts = reader(trouble, trouble)
    assert read(ours, ("a", 5, 105)) == [DATA["a"][5:105]]
    assert (counts.requests, counts.retries) == (3, 2)


def test_what_stays_broken_is_given_up_after_a_bounded_number_of_tries():
    ours, counts = reader(*[BUSY] * 100)
    assert read(ours, ("a", 0, 1)) == [BUSY]
    assert counts.requests == reading.TRIES


@pytest.mark.parametrize("error", [DENIED, FileNotFoundError(), PermissionError()])
def test_what_another_try_would_not_mend_is_not_tried_again(error):
    ours, counts = reader(error)
    assert read(ours, ("a", 0, 1)) == [error]
    assert counts.requests == 1


def test_an_object_that_is_too_short_gives_what_there_is():
    ours, _ = reader()
    assert read(ours, ("a", 19_990, 20_010)) == [DATA["a"][19_990:]]


def test_a_read_that_takes_long_is_overtaken(monkeypatch):
    monkeypatch.setattr(reading, "HEDGE_FLOOR", 0.01)
    ours, counts = reader(*[None] * 50, 30.0)
    for n in range(50):
        read(ours, ("a", n, n + 1))
    assert read(ours, ("a", 7, 9)) == [DATA["a"][7:9]]
    assert (counts.hedges, counts.requests) == (1, 52)


def test_where_the_second_request_fails_a_third_goes_out(monkeypatch):
    """The first would never answer."""
    monkeypatch.setattr(reading, "HEDGE_FLOOR", 0.01)
    ours, counts = reader(*[None] * 80, 30.0, BUSY)
    for n in range(80):
        read(ours, ("a", n, n + 1))
    assert read(ours, ("a", 7, 9)) == [DATA["a"][7:9]]
    assert (counts.hedges, counts.requests, counts.retries) == (2, 83, 0)


def test_no_more_than_a_share_is_asked_for_twice(monkeypatch):
    monkeypatch.setattr(reading, "HEDGE_FLOOR", 0.001)
    ours, counts = reader(*[None] * 20, *[0.05] * 200)
    for n in range(80):
        read(ours, ("a", n, n + 1))
    assert counts.hedges <= 1 + reading.HEDGED_SHARE * counts.requests


def test_other_requests_are_tried_again_too():
    counts, left = Counts(), iter([BUSY, ConnectionResetError()])

    async def action():
        if trouble := next(left, None):
            raise trouble
        return "done"

    assert asyncio.run(tried(action, counts)) == "done"
    assert counts.retries == 2


def test_no_more_than_so_many_are_on_their_way(monkeypatch):
    """Over all calls of a reader, whose ranges come from several threads."""
    now, most = 0, 0

    async def fetch(path, start, end):
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.01)
        now -= 1
        return DATA[path][start:end]

    ours, far = Reader(fetch, Counts()), 2 * GAP

    async def calls():
        ranges = [("ab"[n % 2], far * (n // 2), far * (n // 2) + 9) for n in range(18)]
        await asyncio.gather(*(ours.read(ranges) for _ in range(8)))

    asyncio.run(calls())
    assert most == reading.AT_ONCE


def test_a_slow_sender_is_tried_again():
    """S3 calls it an error of the client's."""
    slow = {"ResponseMetadata": {"HTTPStatusCode": 400}, "Error": {"Code": "RequestTimeout"}}
    ours, counts = reader(ClientError(slow, "PutObject"))
    assert read(ours, ("a", 0, 9)) == [DATA["a"][:9]]
    assert counts.retries == 1
