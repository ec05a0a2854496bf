"""Byte ranges of objects over a network: joined, read concurrently, hedged and retried.

A request that takes far longer than the median is sent a second time, and the first response counts
(hedging: Dean & Barroso, The Tail at Scale, 2013). A request that fails or returns too few bytes is
sent again after a growing, jittered delay. Both are bounded and counted. Retries of fsspec and boto
are switched off, or they would multiply.
"""

import asyncio
import random
import statistics
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from aiohttp import ClientError as ConnectionFailure
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

Range = tuple[str, int, int]
"""Path, first byte, and the byte after the last."""
Fetch = Callable[..., Awaitable[bytes]]
"""Fetches the bytes of a path from `start` to `end`."""
Answer = TypeVar("Answer")

UNREADABLE = (OSError, BotoCoreError, ClientError, ResponseParserError, ConnectionFailure)
"""Exceptions that a file system raises if bytes cannot be read."""
FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
"""Exceptions that another attempt would not resolve."""
TRIES, FIRST_WAIT, LONGEST_WAIT = 6, 0.05, 5.0
"""Maximum attempts per request; mean delay before the second and longest delay, in seconds."""
SHORT_TRIES = 3
"""Maximum attempts of a request that returns too few bytes."""
AT_ONCE = 32
"""Maximum number of concurrent requests of a reader, not counting hedges."""
GAP, LONGEST_JOINED = 1024, 8 * 2**20
"""Maximum gap between two ranges that are joined (tar headers are smaller), and maximum size of a
joined range, in bytes."""
HEDGE_AFTER, HEDGE_FLOOR, HEDGED_SHARE, ABREAST = 4.0, 0.3, 0.05, 3
"""Hedging: a duplicate request is sent after HEDGE_AFTER median latencies, at least HEDGE_FLOOR
seconds, and another one after as long again. Duplicates are at most HEDGED_SHARE of all requests
and ABREAST per range."""
UNKNOWN_PATIENCE = 2.0
"""Delay before a hedge while too few latencies are known (seconds)."""
ONCE = {
    "retries": {"total_max_attempts": 1},
    "connect_timeout": 5,
    "read_timeout": 20,
    "max_pool_connections": 2 * AT_ONCE,  # hedges included
}
"""boto's settings for reading ranges: one attempt, and its timeouts in seconds."""
TOO_SLOW = "RequestTimeout"
"""S3's code of a client error that another attempt may resolve."""


@dataclass
class Counts:
    """Counts of a store's requests.

    Attributes:
        requests: number of requests.
        retries: number of requests sent again after a failure or too few bytes.
        damaged: number of members that did not match their index and were read again.
        hedges: number of duplicate requests sent because the first took long.
        num_bytes: number of bytes received.
    """

    requests: int = 0
    retries: int = 0
    damaged: int = 0
    hedges: int = 0
    num_bytes: int = 0


@dataclass(slots=True)
class Joined:
    """A range that covers the requested ranges `members`, by position in the request."""

    path: str
    start: int
    end: int
    members: list[int] = field(default_factory=list)


def join(ranges: Sequence[Range]) -> list[Joined]:
    """Return ranges that cover the given ones, with near ranges of a path joined."""
    if len(ranges) == 1:
        return [Joined(*ranges[0], [0])]
    joined: list[Joined] = []
    for number in sorted(range(len(ranges)), key=lambda n: ranges[n]):
        path, start, end = ranges[number]
        last = joined[-1] if joined else None
        if (
            last is not None
            and last.path == path
            and start - last.end <= GAP
            and end - last.start <= LONGEST_JOINED
        ):
            last.end = max(last.end, end)
            last.members.append(number)
        else:
            joined.append(Joined(path, start, end, [number]))
    return joined


def is_final(error: BaseException) -> bool:
    """Return whether another attempt would fail too: no such object, or no permission."""
    answer = error if isinstance(error, ClientError) else error.__cause__
    if not isinstance(answer, ClientError):
        return isinstance(error, FINAL)
    if answer.response.get("Error", {}).get("Code") == TOO_SLOW:
        return False
    status: int = answer.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500)
    return status < 500 and status not in (408, 429)


def wait_before(attempt: int) -> float:
    """Return the jittered delay after attempt number `attempt`, from 1, in seconds."""
    return min(FIRST_WAIT * 2.0 ** (attempt - 1), LONGEST_WAIT) * random.uniform(0.5, 1.5)


class Reader:
    """Reader of ranges through a coroutine that fetches one range."""

    def __init__(self, fetch: Fetch, counts: Counts) -> None:
        self._fetch, self._counts = fetch, counts
        self._seconds: deque[float] = deque(maxlen=64)
        self._room = asyncio.Semaphore(AT_ONCE)

    async def read(self, ranges: Sequence[Range]) -> list[bytes | BaseException]:
        """Return each range's bytes, or the exception that reading it raised.

        A range past the object's end is shorter.
        """
        joined = join(ranges)

        # A request keeps its slot over all attempts: a retry that queued again would hold up the
        # batch that training waits for behind later batches.
        async def one(part: Joined) -> bytes:
            async with self._room:
                return await self._patiently(part)

        pieces = await asyncio.gather(*map(one, joined), return_exceptions=True)
        parts: list[bytes | BaseException] = [b""] * len(ranges)
        for part, piece in zip(joined, pieces, strict=True):
            for number in part.members:
                _, start, end = ranges[number]
                cut = slice(start - part.start, end - part.start)
                parts[number] = piece[cut] if isinstance(piece, bytes) else piece
        return parts

    async def _patiently(self, part: Joined) -> bytes:
        short = 0

        async def whole() -> bytes:
            nonlocal short
            piece = await self._hedged(part)
            short += len(piece) != part.end - part.start
            # Bytes that come short three times are all there is: the index tells what is missing.
            if len(piece) != part.end - part.start and short < SHORT_TRIES:
                raise OSError(f"{part.path}: got {len(piece)} bytes at byte {part.start}")
            return piece

        return await tried(whole, self._counts)

    async def _hedged(self, part: Joined) -> bytes:
        tasks = {asyncio.ensure_future(self._timed(part))}
        try:
            while True:
                done, waiting = await asyncio.wait(
                    tasks, timeout=self._patience(part), return_when=asyncio.FIRST_COMPLETED
                )
                good = [task for task in done if task.exception() is None]
                if good or not waiting:
                    return (good or list(done))[0].result()
                # Where the second one fails, too, another goes out: the first may never answer.
                tasks = waiting
                if len(tasks) < ABREAST and self._may_hedge():
                    self._counts.hedges += 1
                    tasks.add(asyncio.ensure_future(self._timed(part)))
        finally:
            for task in tasks:
                task.cancel()

    async def _timed(self, part: Joined) -> bytes:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        self._counts.requests += 1
        piece = await self._fetch(part.path, start=part.start, end=part.end)
        self._seconds.append(loop.time() - begun)
        self._counts.num_bytes += len(piece)
        return piece

    def _may_hedge(self) -> bool:
        return self._counts.hedges <= HEDGED_SHARE * self._counts.requests

    def _patience(self, part: Joined) -> float:
        longer = 1 + (part.end - part.start) / 2**20  # than a member: a large range is no stall
        if len(self._seconds) < 8:  # too few to tell what is long
            return longer * UNKNOWN_PATIENCE
        return longer * max(HEDGE_AFTER * statistics.median(self._seconds), HEDGE_FLOOR)


async def tried(action: Callable[[], Awaitable[Answer]], counts: Counts) -> Answer:
    """Return an action's result, with retries after temporary failures.

    Raises:
        Exception: one of `UNREADABLE`, from the last attempt.
    """
    for attempt in range(1, TRIES):
        try:
            return await action()
        except UNREADABLE as error:
            if is_final(error):
                raise
        counts.retries += 1
        await asyncio.sleep(wait_before(attempt))
    return await action()
