"""ASGI middleware before the routes: checks tokens, sizes, time and load; logs a line a request.

Plain ASGI, so that a request is refused before its body is read. Nothing from the request is logged
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
BUSY, BUSY_LOG_SECONDS = 429, 1.0
MAX_HEAD_BYTES = 32 * 2**10
"""Maximum size of a request's target and headers together, in bytes."""
UNIQUE_HEADERS = (
    b"authorization",
    b"content-encoding",
    b"content-length",
    b"content-type",
    b"host",
)
"""Headers that may not repeat: of two, a proxy might read one and the guard the other."""
SECURITY_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
        b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
]


class RequestObserver:
    """Receives the start and end of each request; this base class ignores them."""

    def on_start(self, in_flight: int) -> None:
        """Called when a request is admitted."""

    def on_end(self, route: str, status: int, seconds: float, in_flight: int) -> None:
        """Called when a request is answered or refused."""


class Guard:
    """Passes admitted requests to the routes, and refuses the others.

    Args:
        app: the routes, an ASGI application.
        tokens: accepted bearer tokens; None admits anybody.
        limits: limits of a request.
        observer: receives the start and end of each request.
        open_paths: paths that need no token.
    """

    def __init__(
        self,
        app: App,
        tokens: Tokens | None,
        limits: Limits,
        observer: RequestObserver,
        *,
        open_paths: Collection[str] = (),
    ) -> None:
        self._app, self._tokens, self._limits, self._observer = app, tokens, limits, observer
        self._open, self._in_flight = frozenset(open_paths), 0
        self._busy_count = 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Handle one request (the ASGI interface)."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # a websocket: to close it unaccepted answers 403
            await send({"type": "websocket.close", "code": 1008})
            return
        begun, status = time.perf_counter(), 0
        # Serve's proxy sets an id, and adds it to the answer by itself.
        given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        request_id = given if UUID.fullmatch(given) else str(uuid.uuid4())
        scope.setdefault("state", {})["request_id"] = request_id
        own_headers = [] if request_id == given else [(b"x-request-id", request_id.encode())]

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message.get("headers", []), *own_headers, *SECURITY_HEADERS]
                message = {**message, "headers": headers}
            await send(message)

        counted = False
        try:
            # Requests to open paths are not counted: they must not exhaust the limit of the others.
            counted = self._admit(scope)
            self._in_flight += counted
            self._observer.on_start(self._in_flight)
            await self._app(scope, self._limit_body(scope, receive), answer)
        except RefusedError as refused:
            if not status:
                await send_refusal(refused, request_id, answer)
        finally:
            self._in_flight -= counted
            seconds, route = time.perf_counter() - begun, _route(scope)
            self._observer.on_end(route, status, seconds, self._in_flight)
            if status == BUSY:
                self._count_busy()
            else:
                _log(request_id, scope["method"], route, status, seconds)

    def _count_busy(self) -> None:
        """Count a busy refusal; they are logged in one line a second, cheaper than a line each."""
        if not self._busy_count:
            asyncio.get_running_loop().call_later(BUSY_LOG_SECONDS, self._log_busy_count)
        self._busy_count += 1

    def _log_busy_count(self) -> None:
        log.info(json.dumps({"refused": REASONS[BUSY], "count": self._busy_count}))
        self._busy_count = 0

    def _admit(self, scope: Message) -> bool:
        """Check a request's head; return whether it counts towards the requests in flight.

        Raises:
            RefusedError: the request is not admitted.
        """
        parts = [scope["path"], scope["query_string"], *(b"".join(h) for h in scope["headers"])]
        if sum(map(len, parts)) > MAX_HEAD_BYTES:
            raise RefusedError(431, f"headers: longer than {MAX_HEAD_BYTES} bytes")
        names = [name for name, _ in scope["headers"]]
        if any(names.count(name) > 1 for name in UNIQUE_HEADERS):
            raise RefusedError(400, "headers: one that may occur once is repeated")
        headers = dict(scope["headers"])
        is_open = scope["path"] in self._open and scope["method"] in ("GET", "HEAD")
        authorization = headers.get(b"authorization", b"")
        if self._tokens and not is_open and not self._tokens.accepts(authorization):
            raise RefusedError(401, "token: missing or unknown; send Authorization: Bearer TOKEN")
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise RefusedError(415, "content encoding: expected none")
        length = headers.get(b"content-length", b"0")
        limit = self._max_body_bytes(headers)
        if not length.isdigit() or int(length) > limit:
            raise RefusedError(413, f"body: longer than {limit} bytes")
        if not is_open and self._in_flight >= self._limits.in_flight:
            raise RefusedError(BUSY, "busy: too many requests at once", retry_after=1)
        return not is_open

    def _max_body_bytes(self, headers: dict[bytes, bytes]) -> int:
        is_json = headers.get(b"content-type", b"").startswith(b"application/json")
        mib = self._limits.json_mib if is_json else self._limits.body_mib
        return int(mib * 2**20)

    def _limit_body(self, scope: Message, receive: Receive) -> Receive:
        """Return a `receive` that refuses a body when it grows too long or arrives too slowly."""
        limit, received = self._max_body_bytes(dict(scope["headers"])), 0
        deadline = time.monotonic() + self._limits.body_seconds
        complete = False

        async def receive_limited() -> Message:
            nonlocal received, complete
            if complete:  # the next message is the disconnect, which may come at any time
                return await receive()
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    message = await receive()
            except TimeoutError:
                raise RefusedError(408, "body: did not arrive in time") from None
            if message["type"] == "http.disconnect":  # a refusal logs no traceback
                raise RefusedError(400, "body: the connection was closed before its end")
            received += len(message.get("body", b""))
            if received > limit:
                raise RefusedError(413, f"body: longer than {limit} bytes")
            complete = not message.get("more_body", False)
            return message

        return receive_limited


async def send_refusal(refused: RefusedError, request_id: str, send: Send) -> None:
    """Send the answer to a refused request."""
    body = json.dumps({"error": refused.message, "request_id": request_id}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    if refused.retry_after:
        headers.append((b"retry-after", b"%d" % max(1, round(refused.retry_after))))
    if refused.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _route(scope: Message) -> str:
    """Return the route's template, which holds nothing from the request."""
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
