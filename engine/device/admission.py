"""Who may talk to the model server. Requests wait here, never in a server that sleeps.

    acquire ──open──► Lease ──────────────release──► (answered)
       │                │ abort: the device is handed over; what it awaits ends with RequestAbortedError
       └─closed─► waiting ──open──► Lease
                     └──refuse──► the error that says why

One object of the device's event loop: its owner opens, closes, drains and refuses; requests acquire and release.
An aborted lease does not count as in flight any more, since nothing passes through it again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TypeVar

from engine.device.contracts import Server
from engine.errors import DeviceBusyError, RequestAbortedError, RuneError

MAX_WAITING = 10_000
"""Far more than sessions can have; one more is refused at once."""

T = TypeVar("T")


class Lease:
    """The right of one request to talk to the model server, until it is released or aborted."""

    def __init__(self, server: Server, forget: Callable[[Lease], None]) -> None:
        self.server = server
        self.adapter: str | None = None
        """Digest of the adapter that it uses: not unloaded meanwhile."""
        self._forget = forget
        self._aborted = False
        self._scopes: set[asyncio.Timeout] = set()

    @property
    def is_busy(self) -> bool:
        """Something of the server's is awaited under it."""
        return bool(self._scopes)

    @property
    def aborted(self) -> bool:
        """The device was handed over; ask for another lease."""
        return self._aborted

    async def guard(self, work: Awaitable[T]) -> T:
        """Await something of the server's; an abort of the lease cancels it.

        Raises:
            RequestAbortedError
        """
        if self._aborted:
            if asyncio.iscoroutine(work):
                work.close()
            raise RequestAbortedError
        scope = asyncio.timeout(None)
        try:
            async with scope:
                self._scopes.add(scope)
                return await work
        except TimeoutError as error:
            if scope.expired():
                raise RequestAbortedError from error
            raise
        finally:
            self._scopes.discard(scope)
            if self._aborted and not self._scopes:
                self._forget(self)

    def abort(self) -> None:
        """Let nothing more through. Called by the owner."""
        if self._aborted:
            return
        self._aborted = True
        for scope in self._scopes:
            scope.reschedule(asyncio.get_running_loop().time())
        if not self._scopes:
            self._forget(self)


class Admission:
    """The one door to the model server.

    Args:
        ask: called when a request begins to wait.
        busy: the error of a request that does not want to wait.
    """

    def __init__(self, ask: Callable[[], None], busy: Callable[[], RuneError]) -> None:
        self._ask = ask
        self._busy = busy
        self._server: Server | None = None
        self._leases: dict[Lease, None] = {}  # in the order that they were let in
        self._waiting: deque[asyncio.Future[Lease]] = deque()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def in_flight(self) -> int:
        """Requests that may talk to the server now."""
        return len(self._leases)

    @property
    def waiting(self) -> int:
        """Requests that wait to be let in."""
        return sum(not future.done() for future in self._waiting)

    def adapters_in_use(self) -> frozenset[str]:
        """Of the requests in flight."""
        return frozenset(lease.adapter for lease in self._leases if lease.adapter is not None)

    async def acquire(self, *, wait: bool) -> Lease:
        """A lease, now or as soon as the model serves.

        Raises:
            DeviceBusyError: it does not serve, and `wait` is false; or too many wait already.
            RuneError: the device cannot be used; the sentence says why.
        """
        if self._server is not None:
            return self._grant(self._server)
        if not wait:
            raise self._busy()
        if self.waiting >= MAX_WAITING:
            raise DeviceBusyError(f"{MAX_WAITING} requests wait already.")
        future: asyncio.Future[Lease] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        self._ask()
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self.release(future.result())  # let in and cancelled in the same moment
            raise
        finally:
            if future in self._waiting:
                self._waiting.remove(future)

    def release(self, lease: Lease) -> None:
        """The request is answered, or has given up. What goes on for it ends first, and is in flight until then."""
        if lease.is_busy:
            lease.abort()
            return
        self._leases.pop(lease, None)
        if not self._leases:
            self._idle.set()

    def open(self, server: Server) -> None:
        """Let in who waits, in the order that they came."""
        self._server = server
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(self._grant(server))

    def close(self) -> None:
        """Let nobody in from now on."""
        self._server = None

    def refuse(self, error: Callable[[], RuneError]) -> None:
        """Tell everyone who waits that it is not going to be."""
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_exception(error())

    async def drain(self, limit_s: float) -> int:
        """Return once nothing is in flight; what still is after `limit_s` is aborted.

        Returns:
            How many were aborted.
        """
        assert self._server is None, "drained while open"
        try:
            async with asyncio.timeout(limit_s):
                await self._idle.wait()
        except TimeoutError:
            aborted = self.abort()
            await self._idle.wait()
            return aborted
        return 0

    def abort(self) -> int:
        """End every lease at once; says how many."""
        leases = list(self._leases)
        for lease in leases:
            lease.abort()
        return len(leases)

    def _grant(self, server: Server) -> Lease:
        lease = Lease(server, self.release)
        self._leases[lease] = None
        self._idle.clear()
        return lease
