"""Byte ranges of objects over a network: near ones joined, read at once, hedged, tried again.

A read that takes far longer than its like is asked for once more, and whichever answers first
counts (Dean & Barroso, The Tail at Scale, 2013); one that fails or comes short is tried again after
a growing, jittered wait. Both are bounded and counted. fsspec's and boto's own repetitions are
switched off, or they would multiply.
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
"""Of a path, from `start` to `end`."""
Answer = TypeVar("Answer")

UNREADABLE = (OSError, BotoCoreError, ClientError, ResponseParserError, ConnectionFailure)
"""What a file system raises where bytes cannot be had."""
FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
"""Those of them that another try would not mend."""
TRIES, FIRST_WAIT, LONGEST_WAIT = 6, 0.05, 5.0
"""Of a request: tries in all, the mean wait before the second, and the longest (seconds)."""
SHORT_TRIES = 3
"""Of a request that is answered by too few bytes."""
AT_ONCE = 32
"""Requests on their way at once, of each reader, without those that hedge."""
GAP, LONGEST_JOINED = 1024, 8 * 2**20
"""Bytes between two ranges that are read along, as tar headers are, and of a joined range."""
HEDGE_AFTER, HEDGE_FLOOR, HEDGED_SHARE, ABREAST = 4.0, 0.3, 0.05, 3
"""A second request goes out after so many medians, at least so many seconds, and a third after as
long again; hedges are at most a share of all requests. How many of one range may be out at once."""
UNKNOWN_PATIENCE = 2.0
"""Before the second request, while nothing is known of others (seconds)."""
ONCE = {
    "retries": {"total_max_attempts": 1},
    "connect_timeout": 5,
    "read_timeout": 20,
    "max_pool_connections": 2 * AT_ONCE,  # with those that hedge
}
"""boto's settings for reading ranges: one try, and how long it may take (seconds)."""
TOO_SLOW = "RequestTimeout"
"""What S3 calls an error of the sender's that another try may mend."""


@dataclass
class Counts:
    """What reading took.

    Attributes:
        requests: sent in all.
        retries: sent since the one before failed or came short.
        damaged: members whose bytes were not those that were indexed, and were read again.
        hedges: sent since the one before took long.
        num_bytes: received.
    """

    requests: int = 0
    retries: int = 0
    damaged: int = 0
    hedges: int = 0
    num_bytes: int = 0


@dataclass(slots=True)
class Joined:
    """A range that covers several; `members` are their places in what was asked for."""

    path: str
    start: int
    end: int
    members: list[int] = field(default_factory=list)


def join(ranges: Sequence[Range]) -> list[Joined]:
    """Return ranges that cover the given ones, those of a path that lie near each other as one."""
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
    """Return whether another try would not help: nothing there, or not for us."""
    answer = error if isinstance(error, ClientError) else error.__cause__
    if not isinstance(answer, ClientError):
        return isinstance(error, FINAL)
    if answer.response.get("Error", {}).get("Code") == TOO_SLOW:
        return False
    status: int = answer.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500)
    return status < 500 and status not in (408, 429)


def wait_before(attempt: int) -> float:
    """Return how long to wait before try number `attempt` (from 1; seconds), jittered."""
    return min(FIRST_WAIT * 2.0 ** (attempt - 1), LONGEST_WAIT) * random.uniform(0.5, 1.5)


class Reader:
    """Reads ranges through a coroutine that fetches one."""

    def __init__(self, fetch: Fetch, counts: Counts) -> None:
        self._fetch, self._counts = fetch, counts
        self._seconds: deque[float] = deque(maxlen=64)
        self._room = asyncio.Semaphore(AT_ONCE)

    async def read(self, ranges: Sequence[Range]) -> list[bytes | BaseException]:
        """Return the bytes of each range, or what kept them; short where the object is."""
        joined = join(ranges)

        # Whoever waits first is first, to its end: another try that stood in line anew would keep
        # the batch that training is waiting for behind those after it.
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
    """Return what an action returns, tried again where it fails for a while.

    Raises:
        Exception: of `UNREADABLE`, what the last try failed with.
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
