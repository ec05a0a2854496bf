"""Answers in time: one that is waited for, and those to a batch as they are finished."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import numpy as np
from jaxtyping import Float

from serve.schema import BatchLine, Embedding, Reconstruction, Retrieval
from serve.voxels import RefusedError

WORKING_AT_ONCE = 32
"""Brains of one batch that are under way at once."""
Row = Float[np.ndarray, " voxels"]


async def lines(
    rows: list[Row],
    one: Callable[[Row], Awaitable[Embedding | Retrieval | Reconstruction]],
    seconds: float,
) -> AsyncIterator[bytes]:
    """Yield a line for each brain as it is finished, a bounded number being under way."""
    waiting = iter(enumerate(rows))
    under_way: set[asyncio.Task[BatchLine]] = set()

    async def line(brain: int, row: Row) -> BatchLine:
        try:
            return BatchLine(brain=brain, answer=await patient(lambda: one(row), seconds))
        except RefusedError as refused:
            return BatchLine(brain=brain, error=refused.message)

    try:
        while True:
            for brain, row in waiting:
                under_way.add(asyncio.create_task(line(brain, row)))
                if len(under_way) >= WORKING_AT_ONCE:
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
    """Return a call's answer, called again while the models are busy, for a bounded time."""
    loop, wait = asyncio.get_running_loop(), 0.05
    deadline = loop.time() + seconds
    while True:
        try:
            return await bounded(call(), deadline - loop.time())
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
