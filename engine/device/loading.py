"""Loads adapters into a server that serves, one after the other, for requests that hold a lease."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from engine.device.admission import Lease
from engine.device.contracts import LiveAdapter
from engine.device.server_hands import Parts, ServerHands
from engine.errors import AdapterUnsupportedError


@dataclass(frozen=True)
class Wanted:
    """An adapter, the lease of the request that wants it, and who is told."""

    adapter: LiveAdapter
    lease: Lease
    answer: asyncio.Future[None]


class AdapterLoader:
    """One queue, one worker. A lease keeps the server awake while its adapter is loaded, and its abort ends that."""

    def __init__(self, parts: Parts, hands: ServerHands) -> None:
        self._parts = parts
        self._hands = hands
        self._queue: deque[Wanted] = deque()
        self._some = asyncio.Event()

    async def ensure(self, adapter: LiveAdapter, lease: Lease) -> None:
        """Return once the lease's server holds the adapter, and does so for as long as the lease lasts.

        Raises:
            AdapterUnsupportedError, ProviderError: it cannot be loaded; the sentence says why.
            RequestAbortedError: the device was handed over meanwhile.
        """
        if not lease.server.can_load_adapters:
            raise AdapterUnsupportedError(f"The {lease.server.backend} backend cannot use adapters.")
        lease.adapter = adapter.name
        if self._parts.live.holds(adapter.name):
            self._parts.live.use(adapter)
            return
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(Wanted(adapter, lease, answer))
        self._some.set()
        await lease.guard(answer)

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            await self._some.wait()
            while self._queue:
                await self._load(self._queue.popleft())
            self._some.clear()

    async def _load(self, wanted: Wanted) -> None:
        if wanted.answer.done():  # its request has given up
            return
        try:
            if self._parts.live.holds(wanted.adapter.name):
                self._parts.live.use(wanted.adapter)
            else:
                await wanted.lease.guard(self._hands.load_one(wanted.lease.server, wanted.adapter))
        except Exception as error:  # belongs to the request; the worker goes on with the next one
            if not wanted.answer.done():
                wanted.answer.set_exception(error)
        else:
            if not wanted.answer.done():
                wanted.answer.set_result(None)
