"""A `Provider` that passes the device's door: each request holds a lease for as long as it talks to the server.

Whoever uses it never knows which server answers or whether one runs: a request waits while the device trains, and is
aborted (`RequestAbortedError`: ask again) when the device is handed over or the server dies under it. None is ever
sent to a server that sleeps.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, AsyncExitStack, aclosing, asynccontextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TypeVar, cast

from engine.api_device import BackendName, DeviceState
from engine.device.admission import Lease
from engine.device.contracts import LiveAdapter
from engine.device.owner import Device
from engine.errors import (
    AdapterUnsupportedError,
    ContextOverflowError,
    ProviderError,
    ProviderTimeoutError,
    RequestAbortedError,
)
from engine.inference.factory import CAPABILITIES
from engine.inference.provider import Capabilities, Completion, Delta, Health, Provider, Request
from engine.inference.servers.catalogue import ServingServer

DEATH_NOTICE_S = 0.5
"""A server that dies is noticed by its connections first, and by its owner within this time."""
POLL_S = 0.02
OWN_FAULT = (ContextOverflowError, ProviderTimeoutError, AdapterUnsupportedError, RequestAbortedError)
"""Errors that say by themselves whose fault they are: no death of the server is behind them."""

T = TypeVar("T")


@dataclass(frozen=True)
class Answered:
    """A whole answer, and who gave it."""

    completion: Completion
    backend: BackendName
    proven: bool
    """The server named the very adapter that was asked for, or its base model, and lists that adapter as loaded."""


class AdmittedProvider:
    """Talks to whatever server serves. Implements `engine.inference.provider.Provider`.

    Args:
        adapter: made live before each request, since a server that was restarted or switched may not have it.
        model: name of the base model.
        wait: for the model to serve; False fails at once where it does not.
        waiting: entered while a request waits for it.
    """

    def __init__(
        self,
        device: Device,
        model: str,
        adapter: LiveAdapter | None = None,
        *,
        wait: bool = True,
        waiting: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._device = device
        self._model = model
        self._adapter = adapter
        self._wait = wait
        self._waiting = waiting
        self.answered_by: BackendName | None = None
        """The backend that gave the last answer."""

    @property
    def capabilities(self) -> Capabilities:
        """Of the backend that serves, or will."""
        return CAPABILITIES[self._device.status().backend]

    async def generate(self, request: Request) -> Completion:
        """The whole answer.

        Raises:
            RequestAbortedError: the device was handed over meanwhile; ask again.
            DeviceBusyError: the device cannot be used, or not now and this provider does not wait.
            ProviderError, ProviderTimeoutError, ContextOverflowError, AdapterUnsupportedError
        """
        async with self._admitted() as lease:
            completion = await _through(lease, _provider(lease).generate(request))
            self.answered_by = lease.server.backend
            return completion

    async def answer(self, request: Request) -> Answered:
        """As `generate`, with what the server says about who answered; asked while it cannot change."""
        async with self._admitted() as lease:
            provider = _provider(lease)
            completion = await _through(lease, provider.generate(request))
            loaded = await _through(lease, provider.list_adapters()) if request.adapter is not None else ()
            named = completion.served == (request.adapter or completion.model)
            return Answered(
                completion, lease.server.backend, named and (request.adapter is None or request.adapter in loaded)
            )

    async def stream(self, request: Request) -> AsyncIterator[Delta]:
        """The answer in pieces; errors as of `generate`."""
        async with self._admitted() as lease:
            stream = cast("AsyncGenerator[Delta]", _provider(lease).stream(request))
            async with aclosing(stream) as deltas:
                while (delta := await _through(lease, anext(deltas, None))) is not None:
                    self.answered_by = lease.server.backend
                    yield delta if delta.finish_reason is None else replace(delta, backend=lease.server.backend)

    async def load_adapter(self, name: str, path: str) -> None:
        """Make the adapter directory at `path` selectable as `name`."""
        async with self._device.admit(wait=self._wait) as lease:
            await self._device.ensure_adapter(LiveAdapter(name, path), lease)

    async def unload_adapter(self, name: str) -> None:
        """Nothing: the device's owner unloads what was not used for the longest time."""
        del name

    async def list_adapters(self) -> tuple[str, ...]:
        """Names of the live adapters, sorted."""
        return tuple(sorted(self._device.status().adapters))

    async def health(self) -> Health:
        """What the device's owner says; no server is asked."""
        status = self._device.status()
        return Health(status.state is DeviceState.SERVING, status.backend, self._model, status.adapters)

    async def aclose(self) -> None:
        """Nothing: connections belong to the server."""

    @asynccontextmanager
    async def _admitted(self) -> AsyncGenerator[Lease]:
        async with AsyncExitStack() as stack:
            with self._waiting():
                lease = await stack.enter_async_context(self._device.admit(wait=self._wait))
            if self._adapter is not None:
                await _through(lease, self._device.ensure_adapter(self._adapter, lease))
            yield lease


def _provider(lease: Lease) -> Provider:
    return cast("ServingServer", lease.server).provider


async def _through(lease: Lease, work: Awaitable[T]) -> T:
    """Await something of the server's. A server that died under it is no fault of the request.

    Raises:
        RequestAbortedError
        ProviderError: the server lives and says so.
    """
    owned = lease.server.process is not None
    try:
        return await lease.guard(work)
    except OWN_FAULT:
        raise
    except ProviderError as error:
        if owned and await _died(lease):
            raise RequestAbortedError(f"The model server died while it answered: {error}") from error
        raise


async def _died(lease: Lease) -> bool:
    for _ in range(round(DEATH_NOTICE_S / POLL_S)):
        if lease.aborted or lease.server.process is None:
            return True
        await asyncio.sleep(POLL_S)
    return False
