"""Checks of a request before its content is read: its host, its origin and its rate.

``Guard`` protects both the player and ``worldcompass serve-reward``.
"""

from __future__ import annotations

import asyncio
import time
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from worldcompass.rewards.http_json import LOOPBACK

# Style and script are inline in the page; pictures and clips come from the server or from memory.
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self';"
    " img-src 'self' data: blob:; media-src 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    b"content-security-policy": POLICY.encode(),
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cache-control": b"no-store",
}


class Guard:
    """ASGI middleware that refuses requests from other sites and, on loopback, foreign host names.

    Pages of other sites can reach a server on loopback. Browsers send the origin of a WebSocket or a POST
    (``Origin``), which must be this server. On loopback the ``Host`` must be a loopback name, as a foreign name may
    resolve to this machine.
    """

    def __init__(self, app: ASGIApp, loopback_only: bool, origins: frozenset[str] = frozenset()) -> None:
        """Guard ``app``; pages from ``origins``, names with ports, are admitted too."""
        self.app, self.loopback_only, self.origins = app, loopback_only, origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        why = refusal(Headers(scope=scope), self.loopback_only, self.origins)
        if why is None:
            await self._serve(scope, receive, send)
        elif scope["type"] == "http":
            await PlainTextResponse(why, 403)(scope, receive, send)
        else:
            await receive()
            await send({"type": "websocket.close", "code": 1008})  # before accepting: answered with 403

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer requests that a shutdown interrupts with one sentence, without a traceback in the terminal."""
        begun = False

        async def note(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.app(scope, receive, _with_headers(note))
        except asyncio.CancelledError:
            if scope["type"] == "http" and not begun:
                answer = JSONResponse({"detail": "the server has stopped: start it again, then reload"}, 503)
                await answer(scope, receive, send)


def refusal(headers: Headers, loopback_only: bool, origins: frozenset[str] = frozenset()) -> str | None:
    """The reason to refuse a request, in one sentence; None for an allowed one."""
    host = headers.get("host", "")
    if loopback_only and _hostname(host) not in LOOPBACK and host not in origins:
        return "this server answers to localhost only: use the address that it printed, or name yours with --origin"
    origin = headers.get("origin")
    if origin is not None and _netloc(origin) not in {host, *origins}:
        return (
            "this request comes from another site's page: open this server's own address, or name the page's with"
            " --origin"
        )
    return None


def _hostname(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _netloc(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None


def _with_headers(send: Send) -> Send:
    async def add(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", []), *_HEADERS.items()]}
        await send(message)

    return add


class Rate:
    """A token bucket that limits the rate of messages."""

    def __init__(self, per_second: float, burst: float) -> None:
        self.per_second, self.burst, self.left = per_second, burst, burst
        self.at = time.monotonic()

    def take(self) -> bool:
        """Take one message from the bucket; False when the rate is exceeded."""
        now = time.monotonic()
        self.left = min(self.burst, self.left + (now - self.at) * self.per_second)
        self.at = now
        if self.left < 1:
            return False
        self.left -= 1
        return True
