"""What the owner stands on: the device's lock, what dead engines left behind, and the device's memory."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from engine.device.contracts import Memory, MemorySample, ProcessId
from engine.device.lock import CPU, DeviceLock
from engine.device.memory import HostMemory, Need, Proof, settle
from engine.device.processes import Ended, boot_id, descendants, end_survivors, read_records
from engine.errors import DeviceBusyError
from registry.clock import Clock
from registry.files import run_to_end

OWNED_ROLES = frozenset({"server", "trainer"})
"""Guardians that the owner answers for; others (a conversion) have nothing to do with the device."""
SHORT_WAIT_S = 2.0
"""For the lock once every survivor of our own has been ended."""


class Ground(Protocol):
    """The machine, as the owner sees it."""

    @property
    def device_id(self) -> str: ...

    @property
    def boot_id(self) -> str: ...

    @property
    def exact(self) -> bool:
        """Whether the device's memory is ours alone, so that small differences mean something."""
        ...

    async def take(self) -> None:
        """Own the device from now on; does nothing when it is ours.

        Raises:
            DeviceBusyError: somebody else has it; says who.
        """
        ...

    async def sweep(self) -> tuple[ProcessId, ...]:
        """End what is left of model servers and trainers; gives what could not be ended."""
        ...

    async def sample(self) -> MemorySample:
        """Raises DeviceLostError."""
        ...

    async def prove(
        self, mib: int, *, margin_mib: int, settle_s: float, ours: Iterable[ProcessId] = (), borrowed: bool = False
    ) -> Proof:
        """Wait until so much is free, twice in a row.

        Args:
            ours: roots of trees that may be on the device.
            borrowed: others may be on it too.

        Raises:
            DeviceLostError
        """
        ...

    async def prove_host(self, mib: int, *, margin_mib: int) -> Proof:
        """Look twice at the machine's own memory, which a trainer on a GPU needs beside the GPU's.

        Without waiting: the kernel has the memory of a process back before it says that the process is gone.
        Where the device is the machine, `prove` has said it already and this is proven.
        """
        ...

    def release(self) -> None:
        """Let go of the device. Safe to call twice."""
        ...


class Machine:
    """The real one. Implements `Ground`."""

    def __init__(self, memory: Memory, home: Path, clock: Clock, host: Memory | None = None) -> None:
        """Touches nothing yet.

        Args:
            host: the machine's own memory; None is the real one.
        """
        self._memory = memory
        self._host = host or HostMemory()
        self._run = home / "run"
        self._clock = clock
        self._lock: DeviceLock | None = None
        self._swept = False
        self._boot_id = boot_id()

    @property
    def device_id(self) -> str:
        return self._memory.device_id

    @property
    def boot_id(self) -> str:
        return self._boot_id

    @property
    def exact(self) -> bool:
        return self.device_id != CPU

    @property
    def lock(self) -> DeviceLock | None:
        """Passed on to every guardian."""
        return self._lock

    async def take(self) -> None:
        if self._lock is not None:
            return
        try:
            self._lock = await DeviceLock.acquire(self.device_id, self._run)
        except DeviceBusyError:
            # The home is ours, so whatever its guardians still hold belongs to an engine that is dead.
            await self.sweep()
            self._lock = await DeviceLock.acquire(self.device_id, self._run, wait_s=SHORT_WAIT_S)

    async def sweep(self) -> tuple[ProcessId, ...]:
        first, self._swept = not self._swept, True
        return (await run_to_end(lambda: self._end(everything=first))).alive

    def _end(self, *, everything: bool) -> Ended:
        records = read_records(self._run / "guardians")
        # Later on, a conversion that runs beside us is our own and alive.
        return end_survivors([record for record in records if everything or record.role in OWNED_ROLES])

    async def sample(self) -> MemorySample:
        return await self._memory.sample()

    async def prove(
        self, mib: int, *, margin_mib: int, settle_s: float, ours: Iterable[ProcessId] = (), borrowed: bool = False
    ) -> Proof:
        known = await run_to_end(lambda: _trees(ours))
        if borrowed:
            known |= {holder.pid for holder in (await self.sample()).holders}
        return await settle(self._memory, Need(mib, margin_mib, known), settle_s, self._clock)

    async def prove_host(self, mib: int, *, margin_mib: int) -> Proof:
        need = Need(mib, margin_mib)
        if not self.exact:
            return Proof(True, "The device is the machine.", mib, need.free_mib, 0)
        return await settle(self._host, need, 0.0, self._clock)

    def release(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.release()


def _trees(roots: Iterable[ProcessId]) -> frozenset[int]:
    found: set[int] = set()
    for root in roots:
        found |= {root.pid, *(process.pid for process in descendants(root))}
    return frozenset(found)
