"""Answers in time: one that is waited for, and those to a batch as they are finished."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import numpy as np
from jaxtyping import Float

from serve.bodies import RefusedError
from serve.schema import BatchLine, Embedding, Reconstruction, Retrieval

WORKING_AT_ONCE = 16
"""Brains of one batch that are under way at once."""
DRAWING_AT_ONCE = 4
"""The same, where pictures are drawn; more would keep single brains out."""
FRESH_SECONDS, ASKED_SECONDS, STALE_SECONDS = 1.0, 5.0, 30.0
"""How long an answer counts, how long it may take, and until when it excuses busy models."""
PATIENCE = 10
"""How often its time a brain of a batch waits for busy models."""
Row = Float[np.ndarray, " voxels"]


async def lines(
    rows: list[Row],
    one: Callable[[Row], Awaitable[Embedding | Retrieval | Reconstruction]],
    seconds: float,
    at_once: int = WORKING_AT_ONCE,
) -> AsyncIterator[bytes]:
    """Yield a line for each brain as it is finished, a bounded number being under way."""
    waiting = iter(enumerate(rows))
    under_way: set[asyncio.Task[BatchLine]] = set()

    async def line(brain: int, row: Row) -> BatchLine:
        try:
            return BatchLine(brain=brain, answer=await patient(lambda: one(row), seconds))
        except RefusedError as refused:
            return BatchLine(brain=brain, status=refused.status, error=refused.message)

    try:
        while True:
            for brain, row in waiting:
                under_way.add(asyncio.create_task(line(brain, row)))
                if len(under_way) >= at_once:
                    break
            if not under_way:
                return
            done, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                yield task.result().model_dump_json().encode() + b"\n"
    finally:
        for task in under_way:
            task.cancel()


async def patient(call: Callable[[], Awaitable[Any]], seconds: float) -> Any:
    """Return a call's answer in time, called again while the models are busy."""
    loop, wait = asyncio.get_running_loop(), 0.05
    deadline = loop.time() + PATIENCE * seconds
    while True:
        try:
            return await bounded(call(), seconds)
        except RefusedError as refused:
            if refused.status not in (429, 503) or loop.time() + wait > deadline:
                raise
        await asyncio.sleep(wait)
        wait = min(2 * wait, 1.0)


async def bounded(answer: Awaitable[Any], seconds: float, status: int = 504) -> Any:
    """Return an answer that comes in time.

    Raises:
        RefusedError: it did not.
    """
    try:
        async with asyncio.timeout(seconds):
            return await answer
    except TimeoutError:
        raise RefusedError(status, "the models did not answer in time", retry_after=1) from None


class Ready:
    """Whether the models answer: asked for at most once a second, whoever wants to know.

    Busy models are ready: they answered a moment ago.

    Args:
        ask: the models for anything.
    """

    def __init__(self, ask: Callable[[], Awaitable[Any]]) -> None:
        self._ask, self._lock, self._answered = ask, asyncio.Lock(), float("-inf")

    async def __call__(self) -> None:
        """Return if they do.

        Raises:
            RefusedError: they do not.
        """
        async with self._lock:
            since = asyncio.get_running_loop().time() - self._answered
            if since < FRESH_SECONDS:
                return
            try:
                await bounded(self._ask(), ASKED_SECONDS, status=503)
            except RefusedError:
                if since > STALE_SECONDS:
                    raise
                return
            self._answered = asyncio.get_running_loop().time()
