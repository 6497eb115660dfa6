"""Starts, watches and stops the model server: one child process, in a session of its own.

    STOPPED ──ensure_ready──► STARTING ──/health answers──► READY
       ▲                         │                            │
       │                         │ exits, or is too slow      │ child died: the next ensure_ready starts another
       │                         ▼                            ▼
       └──────stop()────────── FAILED ◄──too many starts── (STARTING)

`ensure_ready` decides under one lock, so that any number of callers start one server. Each caller gets a provider
that stays the same over restarts: the socket and the key do.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import sys
import tempfile
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from engine.config import Config
from engine.errors import ProviderError, ProviderTimeoutError
from engine.inference.factory import ProviderFactory
from engine.inference.model_files import model_path
from engine.inference.openai_client import UNIX_SCHEME, import_library
from engine.inference.provider import Provider
from engine.logs import tail
from registry.clock import Clock

KEY_VARIABLE = "RUNE_SIDECAR_KEY"
POLL_SECONDS = 0.05
"""Between two looks at a starting server: short against its 0.5 s, long against the cost of a look."""
STOP_SECONDS = 4.0
"""From TERM to KILL; the sidecar gives answers in flight 2 s."""
MAX_STARTS = 4
START_WINDOW_SECONDS = 120.0
"""A server that needs more starts than MAX_STARTS in this time will not get better by another one."""
LOG_LIMIT_BYTES = 10 << 20
"""A larger log is set aside (one generation) before the next start."""
TAIL_BYTES = 2000
"""Of the log, in an error message."""
MAX_SOCKET_PATH = 100
"""The kernel's limit for a Unix socket's path is 107 bytes."""
INHERITED = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "CUDA_VISIBLE_DEVICES",
    "LLAMA_CPP_LIB_PATH",
)
"""All that the child sees of our environment: what finds libraries, devices and scratch space."""


class ServerState(StrEnum):
    """Where the model server is in its life."""

    STOPPED = "stopped"
    """No child, and none wanted yet."""
    STARTING = "starting"
    """The child loads its model."""
    READY = "ready"
    """It answered /health."""
    FAILED = "failed"
    """It could not be started; the reason says why."""


@dataclass(frozen=True)
class _Paths:
    socket: Path
    log: Path
    scratch: Path


class ModelServer:
    """The owner of the sidecar process. Lives on one event loop; `stop` it before the loop ends."""

    def __init__(self, config: Config, home: Path, clock: Clock) -> None:
        """Starts nothing."""
        self._config = config
        self._clock = clock
        self._kind = config.inference.backend
        self._paths = _Paths(_socket_path(home), home / "logs" / "model-server.log", home / "run" / "model-scratch")
        self._key = secrets.token_hex(32)
        self._factory = ProviderFactory()
        self._lock = asyncio.Lock()
        self._child: asyncio.subprocess.Process | None = None
        self._state = ServerState.STOPPED
        self._failure = ""
        self._started_at = 0.0
        self._starts: deque[float] = deque(maxlen=MAX_STARTS)

    @property
    def state(self) -> ServerState:
        """As last observed; a child that died since then makes it STOPPED."""
        if self._state is ServerState.READY and not self._alive():
            return ServerState.STOPPED
        return self._state

    @property
    def reason(self) -> str:
        """One line for the user: what it is doing and for how long, or why it failed."""
        match self.state:
            case ServerState.STARTING:
                elapsed = self._clock.monotonic() - self._started_at
                return f"{self._kind} is loading its model: {elapsed:.0f} s of at most {self._start_timeout:.0f} s"
            case ServerState.READY:
                return f"{self._kind} is ready"
            case ServerState.STOPPED:
                return f"{self._kind} is not running; it starts with the first request"
            case ServerState.FAILED:
                return self._failure

    @property
    def pid(self) -> int | None:
        """Of the child, while it runs."""
        return self._child.pid if self._child is not None and self._alive() else None

    async def ensure_ready(self) -> Provider:
        """A provider whose server answers; starts or restarts the server if need be.

        Raises:
            ProviderError: it cannot be started; the message has the last lines of its log.
            ProviderTimeoutError: it was not ready within `inference.start_timeout_s`.
            ModelNotFoundError: there is no model file.
        """
        async with self._lock:
            if self.state is not ServerState.READY:
                await self._start()
            return self._provider()

    async def stop(self) -> None:
        """TERM, a grace period, KILL for the whole group, reap. Safe to call at any time, also twice."""
        async with self._lock:
            await self._end_child()
            await self._factory.aclose()
            await asyncio.to_thread(self._clean)
            self._state = ServerState.STOPPED

    def _provider(self) -> Provider:
        inference = self._config.inference
        return self._factory.create_provider(
            self._kind,
            url=f"{UNIX_SCHEME}{self._paths.socket}",
            model=self._config.model.base_id,
            key=self._key,
            timeout_s=inference.request_timeout_s,
            retries=inference.connect_retries,
        )

    async def _start(self) -> None:
        await self._end_child()
        self._started_at = self._clock.monotonic()
        self._require_another_start(self._started_at)
        self._state = ServerState.STARTING
        try:
            self._child = await self._spawn()
            await self._await_ready(self._child)
        except BaseException as error:
            # Cancelled or failed: half a server is never left behind.
            self._state, self._failure = ServerState.FAILED, str(error) or type(error).__name__
            await self._end_child()
            raise
        self._state = ServerState.READY

    def _require_another_start(self, now: float) -> None:
        if len(self._starts) == MAX_STARTS and now - self._starts[0] < START_WINDOW_SECONDS:
            self._state = ServerState.FAILED
            self._failure = (
                f"The model server ended {MAX_STARTS} times in {START_WINDOW_SECONDS:.0f} s; see {self._paths.log}."
            )
            raise ProviderError(self._failure)
        self._starts.append(now)

    async def _spawn(self) -> asyncio.subprocess.Process:
        arguments = await asyncio.to_thread(self._arguments)
        log = await asyncio.to_thread(self._open_log)
        try:
            return await asyncio.create_subprocess_exec(
                *arguments,
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=self._environment(),
                start_new_session=True,
            )
        finally:
            os.close(log)

    def _arguments(self) -> list[str]:
        inference = self._config.inference
        arguments = [sys.executable, "-P", "-m", "engine.inference.sidecar", "--backend", self._kind]
        arguments += ["--uds", str(self._paths.socket), "--model-name", self._config.model.base_id]
        arguments += ["--context", str(self._config.model.context_tokens), "--parallel", str(inference.parallel)]
        arguments += ["--threads", str(inference.threads), "--scratch", str(self._paths.scratch)]
        arguments += ["--max-adapters", str(inference.max_adapters)]
        registry = self._config.registry
        arguments += ["--max-adapter-mb", str(registry.max_adapter_mb), "--max-rank", str(registry.max_rank)]
        match self._kind:
            case "scripted" if inference.script:
                arguments += ["--script", str(Path(inference.script).expanduser())]
            case "llamacpp":
                arguments += ["--model", str(model_path(self._config))]
            case _:
                pass
        return arguments

    def _environment(self) -> dict[str, str]:
        inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
        # From a checkout the packages are on our path and nowhere else.
        root = str(Path(__file__).parents[2])
        return inherited | {KEY_VARIABLE: self._key, "PYTHONPATH": root, "PYTHONUNBUFFERED": "1"}

    def _open_log(self) -> int:
        for folder in (self._paths.log.parent, self._paths.socket.parent, self._paths.scratch):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._paths.log.exists() and self._paths.log.stat().st_size > LOG_LIMIT_BYTES:
            self._paths.log.replace(self._paths.log.with_suffix(".log.1"))
        return os.open(self._paths.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    async def _await_ready(self, child: asyncio.subprocess.Process) -> None:
        # The client library takes 0.7 s to import: that is done in a thread while the child loads its model.
        await asyncio.to_thread(import_library)
        provider = self._provider()
        try:
            async with asyncio.timeout(self._start_timeout):
                while not (await provider.health()).ready:
                    if child.returncode is not None:
                        raise ProviderError(await self._obituary(child.returncode))
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError as error:
            tail = await asyncio.to_thread(self._log_tail)
            raise ProviderTimeoutError(
                f"The model server was not ready after {self._start_timeout:.0f} s (inference.start_timeout_s). {tail}"
            ) from error

    async def _obituary(self, status: int) -> str:
        how = f"was ended by signal {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        return f"The model server {how} while it started. {await asyncio.to_thread(self._log_tail)}"

    def _log_tail(self) -> str:
        end = tail(self._paths.log, TAIL_BYTES)
        return f"{self._paths.log} ends: {end}" if end else f"{self._paths.log} says nothing."

    async def _end_child(self) -> None:
        child = self._child
        if child is None:
            return
        if child.returncode is None:
            _signal_group(child.pid, signal.SIGTERM)
            with suppress(TimeoutError):
                await asyncio.wait_for(child.wait(), STOP_SECONDS)
        # The group may outlive its leader: whatever is left of it goes too.
        _signal_group(child.pid, signal.SIGKILL)
        await child.wait()
        if child.stdin is not None:
            child.stdin.close()
        self._child = None
        await asyncio.to_thread(self._paths.socket.unlink, missing_ok=True)

    def _clean(self) -> None:
        shutil.rmtree(self._paths.scratch, ignore_errors=True)
        if self._paths.socket.parent != self._paths.scratch.parent:
            shutil.rmtree(self._paths.socket.parent, ignore_errors=True)

    def _alive(self) -> bool:
        return self._child is not None and self._child.returncode is None

    @property
    def _start_timeout(self) -> float:
        return self._config.inference.start_timeout_s


def _signal_group(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, number)


def _socket_path(home: Path) -> Path:
    """In RUNE_HOME/run; where that is too long for a Unix socket, in a folder that nobody can guess and occupy."""
    path = home / "run" / "model.sock"
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH:
        return path
    return Path(tempfile.gettempdir()) / f"rune-{secrets.token_hex(16)}" / "model.sock"
