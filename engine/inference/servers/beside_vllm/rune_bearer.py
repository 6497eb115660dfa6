"""Runs inside vLLM's process, in vLLM's own environment: no request passes without the key, whatever its path.

vLLM's `--api-key` guards the routes under `/v1` alone. Those of its developer mode, which put the model to sleep and
call any method of the workers (`/collective_rpc`), stay open to whoever reaches the socket. The standard library only:
nothing else of ours is installed there. Its folder holds nothing but this file, since it goes on that Python's path.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, cast

KEY_VARIABLE = "VLLM_API_KEY"

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


class BearerOnly:
    """ASGI middleware that lets a request through only with the key, compared in constant time."""

    def __init__(self, app: App) -> None:
        key = os.environ.get(KEY_VARIABLE, "")
        if not key:
            raise RuntimeError(f"{KEY_VARIABLE} is empty: a model server without a key is open to every user")
        self._app = app
        self._expected = f"Bearer {key}".encode()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or self._allowed(scope):
            await self._app(scope, receive, send)
            return
        await _refuse(scope, send)

    def _allowed(self, scope: Message) -> bool:
        headers = cast("Iterable[tuple[bytes, bytes]]", scope.get("headers", ()))
        return hmac.compare_digest(dict(headers).get(b"authorization", b""), self._expected)


async def _refuse(scope: Message, send: Send) -> None:
    if scope["type"] != "http":  # a web socket: closed before it opens
        await send({"type": "websocket.close", "code": 1008})
        return
    await send({"type": "http.response.start", "status": 401, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": b'{"error":"Unauthorized"}'})
