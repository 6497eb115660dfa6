"""What stands before every route: who may ask, from where, and how much.

A browser can be made to send requests to loopback by any web page it shows. So a request that carries an `Origin` is
refused, a `Host` that is not ours too (DNS rebinding), there is no CORS, and a POST is JSON or has no body (a form or
a text/plain body is what a page may send without being asked).
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import re

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engine.errors import RequestRefusedError
from engine.routes.problems import EXPLANATIONS, problem_response

MAX_BODY_BYTES = 4 << 20
"""A task with its starting project; the largest honest one met is a tenth of this."""

BODY_TIMEOUT_S = 10.0
"""4 MiB over a Unix socket takes milliseconds: who needs longer is stuck or hostile."""

UNIX_ONLY = frozenset({"/shutdown"})
"""Paths that TCP does not have."""

_HOST = re.compile(r"(?P<name>\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]+)(?::\d{1,5})?")
_OUR_NAMES = frozenset({"engine", "localhost"})


class RequestGuard:
    """Refuses what no honest client sends, before any route sees it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        status = _refusal(scope["method"], headers)
        if status is None and _announces_body(headers):
            try:
                receive = await _whole_body(receive)
            except _BodyRefused as refused:
                status = refused.status
        if status is not None:
            await problem_response(status, RequestRefusedError, EXPLANATIONS[status])(scope, receive, send)
            return
        await self._app(scope, receive, send)


class TokenGate:
    """The door of TCP: nothing passes without the bearer token, and some paths not at all."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._expected = f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # no lifespan and no websocket comes through here
            return
        given = Headers(scope=scope).get("authorization", "").encode()
        if not hmac.compare_digest(given, self._expected):
            answer = problem_response(401, RequestRefusedError, EXPLANATIONS[401])
            answer.headers["www-authenticate"] = "Bearer"
            await answer(scope, receive, send)
        elif scope["path"] in UNIX_ONLY:
            await problem_response(403, RequestRefusedError, "Only on the Unix socket.")(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def is_our_host(host: str) -> bool:
    """Whether a `Host` header names this engine: loopback, `localhost`, or `engine` as our clients say."""
    match = _HOST.fullmatch(host)
    if match is None:
        return False
    name = match["name"].strip("[]").lower()
    if name in _OUR_NAMES:
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _refusal(method: str, headers: Headers) -> int | None:
    """The status of a request that is refused by its head alone."""
    if "origin" in headers or not is_our_host(headers.get("host", "")):
        return 403
    if method in ("GET", "HEAD"):
        return None
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and (kind or _announces_body(headers)):
        return 415
    length = headers.get("content-length", "0")
    return 413 if not length.isdecimal() or int(length) > MAX_BODY_BYTES else None


def _announces_body(headers: Headers) -> bool:
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers


class _BodyRefused(Exception):
    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


async def _whole_body(receive: Receive) -> Receive:
    """Read the body within its limits; gives a `receive` that hands it on as one message."""
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            while True:
                message = await receive()
                chunks.append(message.get("body", b""))
                size += len(chunks[-1])
                if size > MAX_BODY_BYTES:
                    raise _BodyRefused(413)
                if message["type"] == "http.disconnect" or not message.get("more_body", False):
                    break
    except TimeoutError as error:
        raise _BodyRefused(408) from error
    waiting: list[Message] = [{"type": "http.request", "body": b"".join(chunks), "more_body": False}]

    async def replay() -> Message:
        return waiting.pop() if waiting else await receive()

    return replay
