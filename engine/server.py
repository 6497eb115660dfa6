"""Serves an engine: the HTTP API on a Unix socket of mode 0600, and on loopback TCP only when asked.

Who can open the socket is this user, by the file system; so it needs no token. TCP can be reached by every user of
the machine and by any web page: it is off by default, loopback only, and every request carries a token that is made
anew at each start and stands in `run/token` (0600), never in a log and never in a URL.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import secrets
import socket
from collections.abc import AsyncGenerator, Generator
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import TypeVar

import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp

from engine.core import Engine
from engine.errors import ConfigError, EnvironmentUnfitError
from engine.home import socket_path
from engine.routes import (
    adapters,
    device,
    evaluate,
    events,
    evidence,
    evolve,
    improve,
    jobs,
    merge,
    operations,
    problems,
    promotion,
    rehearse,
    sessions,
    state,
    suites,
    training,
)
from engine.routes.guards import RequestGuard, TokenGate

TOKEN_BYTES = 32
"""256 bits."""

MAX_CONNECTIONS = 256
"""Open at once; a client needs two. More are answered 503."""

CLOSE_S = 2
"""Answers under way get this long when the engine stops; event streams end at once."""

T = TypeVar("T")

log = logging.getLogger(__name__)


def create_app(engine: Engine) -> FastAPI:
    """The HTTP API of one engine, with everything that guards it except the token."""
    app = FastAPI(
        title="rune-tui engine", version=engine.version, docs_url=None, redoc_url=None, redirect_slashes=False
    )
    app.state.engine = engine
    for module in (
        state,
        sessions,
        events,
        adapters,
        device,
        jobs,
        training,
        operations,
        suites,
        evaluate,
        evidence,
        evolve,
        improve,
        rehearse,
        promotion,
        merge,
    ):
        app.include_router(module.router)
    problems.install(app)
    app.add_middleware(RequestGuard)
    return app


async def serve(engine: Engine) -> None:
    """Answer requests until somebody asks the engine to stop.

    Raises:
        ConfigError: `engine.tcp` is not a loopback address with a port.
        EnvironmentUnfitError: a socket cannot be opened.
    """
    app = create_app(engine)
    address = _loopback(engine.config.engine.tcp) if engine.config.engine.tcp else None
    async with AsyncExitStack() as stack:
        listening = await stack.enter_async_context(_in_thread(_unix_socket(socket_path(engine.home))))
        servers = [(_server(app), listening)]
        if address is not None:
            token = await stack.enter_async_context(_in_thread(_token(engine.home / "run" / "token")))
            listening = await stack.enter_async_context(_in_thread(_tcp_socket(*address)))
            servers.append((_server(TokenGate(app, token)), listening))
        async with asyncio.TaskGroup() as group:
            for server, listening in servers:
                name = f"http {listening.getsockname()}"
                group.create_task(server.serve(sockets=[listening]), name=name)
                log.info("serving on %s", listening.getsockname())
            await engine.shutdown_requested()
            engine.bus.close()  # an open event stream would keep its connection, and so the server
            for server, _ in servers:
                server.should_exit = True


@asynccontextmanager
async def _in_thread(resource: AbstractContextManager[T]) -> AsyncGenerator[T]:
    """Open and close something that touches the disk without blocking the loop."""
    value = await asyncio.to_thread(resource.__enter__)
    try:
        yield value
    finally:
        await asyncio.to_thread(resource.__exit__, None, None, None)


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the process's entry point decides what a signal means."""

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


def _server(app: ASGIApp) -> _Server:
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,  # a log of requests would hold what clients put into URLs by mistake
        proxy_headers=False,
        server_header=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=CLOSE_S,
    )
    return _Server(config)


@contextmanager
def _unix_socket(path: Path) -> Generator[socket.socket]:
    """Bound with mode 0600 from its first instant. The caller holds the home's lock, so a file there is stale."""
    path.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listening.bind(str(path))
    except OSError as error:
        listening.close()
        raise EnvironmentUnfitError(f"{path}: {error.strerror}.") from error
    finally:
        os.umask(before)
    try:
        yield listening
    finally:
        listening.close()
        path.unlink(missing_ok=True)


@contextmanager
def _tcp_socket(host: str, port: int) -> Generator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise EnvironmentUnfitError(f"engine.tcp = {host}:{port}: {error.strerror}.") from error
    with listening:
        yield listening


@contextmanager
def _token(path: Path) -> Generator[str]:
    path.unlink(missing_ok=True)
    token = secrets.token_hex(TOKEN_BYTES)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
        file.write(token)
    try:
        yield token
    finally:
        path.unlink(missing_ok=True)


def _loopback(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    host = {"localhost": "127.0.0.1"}.get(host, host.strip("[]"))
    try:
        address, number = ipaddress.ip_address(host), int(port)
    except ValueError as error:
        raise ConfigError(f"engine.tcp = {text!r}: write address:port, for instance 127.0.0.1:8750.") from error
    if not address.is_loopback or not 0 <= number <= 65535:
        raise ConfigError(f"engine.tcp = {text!r}: only a loopback address is served, for instance 127.0.0.1:8750.")
    return host, number
