"""The guard before the routes: tokens, sizes, times, numbers of requests, and a line of log each.

Plain ASGI, so that a request is refused before its body is read. Nothing of what was sent is logged
or repeated: routes are named by their template, refusals by their reason.
"""

import asyncio
import json
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any

from serve.auth import Tokens
from serve.bodies import RefusedError
from serve.settings import Limits

log = logging.getLogger("ray.serve.mindeye")
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]
UUID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
REASONS = {
    400: "malformed",
    401: "token",
    404: "no such route",
    405: "method",
    408: "slow",
    411: "length",
    413: "size",
    415: "type",
    422: "voxels",
    429: "busy",
    500: "internal",
    431: "headers",
    503: "unavailable",
    504: "timeout",
}
BUSY, BUSY_LINE_SECONDS = 429, 1.0
LONGEST_HEAD = 32 * 2**10
"""Bytes of a request's target and headers together."""
ONCE = (b"authorization", b"content-encoding", b"content-length", b"content-type", b"host")
"""Headers of which a second one would be read here and another one by a proxy."""
HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
        b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
]


class Watch:
    """What the guard tells of requests, beside the log; the service's meters do."""

    def begun(self, in_flight: int) -> None:
        """A request was taken in."""

    def ended(self, route: str, status: int, seconds: float, in_flight: int) -> None:
        """A request was answered, or refused."""


class Guard:
    """Lets through what may be asked, and answers the rest by itself.

    Args:
        app: the routes.
        tokens: who may ask; None is anybody.
        limits: what a request may cost.
        watch: is told of each request.
        open_paths: what anybody may see.
    """

    def __init__(
        self,
        app: App,
        tokens: Tokens | None,
        limits: Limits,
        watch: Watch,
        *,
        open_paths: Collection[str] = (),
    ) -> None:
        self._app, self._tokens, self._limits, self._watch = app, tokens, limits, watch
        self._open, self._in_flight = frozenset(open_paths), 0
        self._turned_away = 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Handle one connection's request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # there are no websockets; closed unaccepted, it is a 403
            await send({"type": "websocket.close", "code": 1008})
            return
        begun, said = time.perf_counter(), 0
        # Serve's proxy has given it an id already, and adds that to the answer by itself.
        given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        request_id = given if UUID.fullmatch(given) else str(uuid.uuid4())
        scope.setdefault("state", {})["request_id"] = request_id
        named = [] if request_id == given else [(b"x-request-id", request_id.encode())]

        async def answer(message: Message) -> None:
            nonlocal said
            if message["type"] == "http.response.start":
                said = message["status"]
                headers = [*message.get("headers", []), *named, *HEADERS]
                message = {**message, "headers": headers}
            await send(message)

        taken = False
        try:
            # What anybody may ask must not take the places of those who have a token.
            taken = self._check(scope)
            self._in_flight += taken
            self._watch.begun(self._in_flight)
            await self._app(scope, self._bounded(scope, receive), answer)
        except RefusedError as refused:
            if not said:
                await refuse(refused, request_id, answer)
        finally:
            self._in_flight -= taken
            seconds, route = time.perf_counter() - begun, _route(scope)
            self._watch.ended(route, said, seconds, self._in_flight)
            if said == BUSY:
                self._turn_away()
            else:
                _log(request_id, scope["method"], route, said, seconds)

    def _turn_away(self) -> None:
        """Count those who are, in a line once a second: one each costs more than to refuse."""
        if not self._turned_away:
            asyncio.get_running_loop().call_later(BUSY_LINE_SECONDS, self._tell)
        self._turned_away += 1

    def _tell(self) -> None:
        log.info(json.dumps({"refused": REASONS[BUSY], "count": self._turned_away}))
        self._turned_away = 0

    def _check(self, scope: Message) -> bool:
        """Return whether a request that is let through takes one of the places."""
        parts = [scope["path"], scope["query_string"], *(b"".join(h) for h in scope["headers"])]
        if sum(map(len, parts)) > LONGEST_HEAD:
            raise RefusedError(431, f"headers: longer than {LONGEST_HEAD} bytes")
        names = [name for name, _ in scope["headers"]]
        if any(names.count(name) > 1 for name in ONCE):
            raise RefusedError(400, "headers: one is given twice")
        headers = dict(scope["headers"])
        is_open = scope["path"] in self._open and scope["method"] in ("GET", "HEAD")
        word = headers.get(b"authorization", b"")
        if self._tokens and not is_open and not self._tokens.allow(word):
            raise RefusedError(401, "token: missing or unknown; send Authorization: Bearer TOKEN")
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise RefusedError(415, "content encoding: expected none")
        length = headers.get(b"content-length", b"0")
        most = self._most(headers)
        if not length.isdigit() or int(length) > most:
            raise RefusedError(413, f"body: longer than {most} bytes")
        if not is_open and self._in_flight >= self._limits.in_flight:
            raise RefusedError(BUSY, "busy: too many requests at once", retry_after=1)
        return not is_open

    def _most(self, headers: dict[bytes, bytes]) -> int:
        is_json = headers.get(b"content-type", b"").startswith(b"application/json")
        mib = self._limits.json_mib if is_json else self._limits.body_mib
        return int(mib * 2**20)

    def _bounded(self, scope: Message, receive: Receive) -> Receive:
        """Return a `receive` that ends a body that is too long or too slow."""
        most, got = self._most(dict(scope["headers"])), 0
        deadline = time.monotonic() + self._limits.body_seconds
        whole = False

        async def bounded() -> Message:
            nonlocal got, whole
            if whole:  # what comes now is the end of the connection, at any time
                return await receive()
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    message = await receive()
            except TimeoutError:
                raise RefusedError(408, "body: did not arrive in time") from None
            if message["type"] == "http.disconnect":  # no error of ours that would be traced
                raise RefusedError(400, "body: the connection was closed in it")
            got += len(message.get("body", b""))
            if got > most:
                raise RefusedError(413, f"body: longer than {most} bytes")
            whole = not message.get("more_body", False)
            return message

        return bounded


async def refuse(refused: RefusedError, request_id: str, send: Send) -> None:
    """Answer a request that was refused."""
    body = json.dumps({"error": refused.message, "request_id": request_id}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    if refused.retry_after:
        headers.append((b"retry-after", b"%d" % max(1, round(refused.retry_after))))
    if refused.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _route(scope: Message) -> str:
    """Return the template of the route, which has nothing of the sender in it."""
    route = scope.get("route")
    return str(getattr(route, "path", "other"))


def _log(request_id: str, method: str, route: str, status: int, seconds: float) -> None:
    line = {
        "request_id": request_id,
        "method": method if method in ("GET", "HEAD", "POST") else "other",
        "route": route,
        "status": status,
        "ms": round(1000 * seconds, 1),
    }
    if status in REASONS:
        line["refused"] = REASONS[status]
    log.info(json.dumps(line))
