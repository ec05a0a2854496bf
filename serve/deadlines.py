"""Time limits and retries of model calls; streaming of a batch's answers; the readiness check."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from serve.bodies import RefusedError, Row
from serve.schema import BatchLine, Embedding, Reconstruction, Retrieval

CONCURRENT_BRAINS = 16
"""Brains of one batch request in work at once."""
CONCURRENT_DRAWINGS = 4
"""The same for drawing pictures; with more, a batch would keep single brains out."""
FRESH_SECONDS, CHECK_SECONDS, STALE_SECONDS = 1.0, 5.0, 30.0
"""Readiness: seconds for which a success is cached; timeout of one check; age up to which a success
still counts while the models are busy."""
BUSY_LIMITS = 10
"""A batch item waits for busy models up to this many request limits."""


async def stream_batch(
    rows: list[Row],
    answer: Callable[[Row], Awaitable[Embedding | Retrieval | Reconstruction]],
    seconds: float,
    concurrency: int = CONCURRENT_BRAINS,
) -> AsyncIterator[bytes]:
    """Yield a JSON line (`BatchLine`) for each brain as it finishes.

    Args:
        rows: voxels of each brain.
        answer: computes the answer to one brain.
        seconds: time limit of one answer.
        concurrency: maximum number of brains in work at once.
    """
    waiting = iter(enumerate(rows))
    running: set[asyncio.Task[BatchLine]] = set()

    async def answer_line(brain: int, row: Row) -> BatchLine:
        try:
            result = await retry_while_busy(lambda: answer(row), seconds)
            return BatchLine(brain=brain, answer=result)
        except RefusedError as refused:
            return BatchLine(brain=brain, status=refused.status, error=refused.message)

    try:
        while True:
            for brain, row in waiting:
                running.add(asyncio.create_task(answer_line(brain, row)))
                if len(running) >= concurrency:
                    break
            if not running:
                return
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                yield task.result().model_dump_json().encode() + b"\n"
    finally:
        for task in running:
            task.cancel()


async def retry_while_busy(call: Callable[[], Awaitable[Any]], seconds: float) -> Any:
    """Return the call's result, each attempt limited to `seconds`; repeat it while models are busy.

    Raises:
        RefusedError: the call was refused for another reason, or still busy after `BUSY_LIMITS`
            times `seconds`.
    """
    loop, delay = asyncio.get_running_loop(), 0.05
    deadline = loop.time() + BUSY_LIMITS * seconds
    while True:
        try:
            return await with_timeout(call(), seconds)
        except RefusedError as refused:
            if refused.status not in (429, 503) or loop.time() + delay > deadline:
                raise
        await asyncio.sleep(delay)
        delay = min(2 * delay, 1.0)


async def with_timeout(answer: Awaitable[Any], seconds: float, status: int = 504) -> Any:
    """Await an answer for at most `seconds`.

    Raises:
        RefusedError: with `status`; the answer did not come in time.
    """
    try:
        async with asyncio.timeout(seconds):
            return await answer
    except TimeoutError:
        raise RefusedError(status, "the models did not answer in time", retry_after=1) from None


class Readiness:
    """Readiness check of the models, run at most once a second for all callers.

    Models that answered a moment ago and are busy now are ready.

    Args:
        probe: makes a cheap call to the models.
    """

    def __init__(self, probe: Callable[[], Awaitable[Any]]) -> None:
        self._probe, self._lock, self._last_success = probe, asyncio.Lock(), float("-inf")

    async def check(self) -> None:
        """Return if the models answer.

        Raises:
            RefusedError: they do not answer, nor did so in the last `STALE_SECONDS`.
        """
        async with self._lock:
            age = asyncio.get_running_loop().time() - self._last_success
            if age < FRESH_SECONDS:
                return
            try:
                await with_timeout(self._probe(), CHECK_SECONDS, status=503)
            except RefusedError:
                if age > STALE_SECONDS:
                    raise
                return
            self._last_success = asyncio.get_running_loop().time()
