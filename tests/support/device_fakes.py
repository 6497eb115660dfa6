"""Fakes of what the device's owner starts and measures. Each does as its script says and writes down what was asked."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from support.engine_parts import SETS

from engine.api_device import BackendName, DeviceState
from engine.config import DeviceSection
from engine.device.contracts import (
    LiveAdapter,
    MemoryHolder,
    MemorySample,
    Oracle,
    OracleMismatchError,
    ProcessId,
    TrainerEnd,
    Utterance,
)
from engine.device.memory import Need, Proof, prove
from engine.device.owner import Device, Setting
from engine.errors import DeviceBusyError, ProviderError
from registry.clock import SystemClock
from registry.db import Database
from registry.journal import MemoryRecorder

TOTAL_MIB = 10_000
SERVER_MIB = 4_000
ASLEEP_MIB = 200
SETTINGS = DeviceSection(
    gpu="",
    drain_s=0.05,
    sleep_s=0.3,
    settle_s=0.01,
    margin_mib=100,
    trainer_grace_s=0.3,
    heartbeat_s=30,
    oracle_tokens=8,
    oracle_logprob=0.01,
    start_tries=2,
)

Act = Callable[[], None] | str | None
"""What a call does: None it works, a text is the ProviderError it fails with, `hang` never ends."""
HANG = "hang"


@dataclass
class World:
    """One machine: who holds its memory, and everything that was asked, in order."""

    log: list[str] = field(default_factory=list[str])
    held: dict[str, int] = field(default_factory=dict[str, int])
    foreign: list[MemoryHolder] = field(default_factory=list[MemoryHolder])
    holder: str = ""
    """Who else has the lock."""
    host_free_mib: int = TOTAL_MIB
    """Of the machine's memory, beside the device's."""

    @property
    def free_mib(self) -> int:
        return TOTAL_MIB - sum(self.held.values()) - sum(holder.mib or 0 for holder in self.foreign)

    def computing(self) -> list[str]:
        """Trees that compute now."""
        return [name for name, mib in self.held.items() if mib > ASLEEP_MIB]


class FakeServer:
    """A scripted `contracts.Server`."""

    def __init__(
        self, world: World, backend: BackendName = BackendName.SCRIPTED, *, sleeps: bool = True, adapters: bool = True
    ) -> None:
        self.world = world
        self.backend = backend
        self.can_sleep = sleeps
        self.can_load_adapters = adapters
        self.need_mib = SERVER_MIB
        self.script: dict[str, deque[Act]] = {}
        self.loaded: dict[str, LiveAdapter] = {}
        self.voice = "a"
        self.mute: set[str] = set()
        """Adapters that are loaded and cannot answer."""
        self.state = "gone"
        self.epoch = 0
        self._death: asyncio.Future[str] | None = None

    def then(self, call: str, *acts: Act) -> None:
        """What the next calls of that name do."""
        self.script.setdefault(call, deque()).extend(acts)

    @property
    def process(self) -> ProcessId | None:
        return None if self.state == "gone" else ProcessId(1000 + self.epoch, self.epoch)

    async def _act(self, call: str) -> None:
        self.world.log.append(f"{self.backend} {call}")
        await asyncio.sleep(0)
        script = self.script.get(call)
        act = script.popleft() if script else None
        if act == HANG:
            await asyncio.Event().wait()
        if isinstance(act, str):
            raise ProviderError(act)
        if act is not None:
            act()

    async def start(self, epoch: int) -> None:
        await self._act("start")
        self.epoch, self.state, self.loaded = epoch, "awake", {}
        self._death = asyncio.get_running_loop().create_future()
        self.world.held[f"server {self.backend}"] = SERVER_MIB

    async def stop(self) -> None:
        await self._act("stop")
        self.state = "gone"
        self.world.held.pop(f"server {self.backend}", None)

    async def sleep(self) -> None:
        assert self.state == "awake"
        await self._act("sleep")
        self.state = "asleep"
        self.world.held[f"server {self.backend}"] = ASLEEP_MIB

    async def wake(self) -> None:
        assert self.state == "asleep"
        await self._act("wake")
        self.state = "awake"
        self.world.held[f"server {self.backend}"] = SERVER_MIB

    async def load_adapter(self, adapter: LiveAdapter) -> None:
        assert self.state == "awake", "I5"
        await self._act(f"load {adapter.name}")
        self.loaded[adapter.name] = adapter

    async def unload_adapter(self, name: str) -> None:
        assert self.state == "awake", "I5"
        await self._act(f"unload {name}")
        self.loaded.pop(name, None)

    async def record(self, adapters: tuple[LiveAdapter, ...], *, base: bool = True) -> Oracle:
        await self._act("record" if base else f"record {' '.join(adapter.name for adapter in adapters)} only")
        names = [*(["base"] if base else []), *(adapter.name for adapter in adapters)]
        if self.mute & set(names):
            raise ProviderError("The model server answered 500: not a number")
        return Oracle(tuple((name, Utterance((self.voice,), (0.0,))) for name in names))

    async def verify(self, oracle: Oracle) -> None:
        await self._act("verify")
        for name, said in oracle.by_model:
            assert name == "base" or name in self.loaded
            if said.tokens != (self.voice,):
                raise OracleMismatchError(f"{name} said {said.tokens} and says {self.voice}")

    async def died(self) -> str:
        assert self._death is not None
        return await asyncio.shield(self._death)

    def die(self, reason: str = "The model server was ended by SIGKILL.") -> None:
        """As the kernel's OOM killer does it."""
        self.state = "gone"
        self.world.held.pop(f"server {self.backend}", None)
        if self._death is not None and not self._death.done():
            self._death.set_result(reason)

    async def answer(self) -> str:
        """What a request does with it."""
        assert self.state == "awake", "I6: a request was sent to a server that does not serve"
        await asyncio.sleep(0)
        return self.voice


class FakeTrainer:
    """A scripted `contracts.Trainer`: `ends` are its runs' ends, one after the other; None runs until cancelled."""

    def __init__(
        self, world: World, job_id: str = "job", need_mib: int = 6_000, *, ends: Iterable[Act | TrainerEnd] = ()
    ) -> None:
        self.world = world
        self.job_id = job_id
        self.need_mib = need_mib
        self.host_mib = 0
        self.ends = deque(ends)
        self.running = asyncio.Event()
        self.published = 0
        self.result: LiveAdapter | None = None
        self.last: TrainerEnd | None = None
        self.process: ProcessId | None = None

    async def run(self, epoch: int) -> TrainerEnd:
        self.world.log.append("trainer run")
        assert not self.world.computing(), "I1: two trees compute"
        self.world.held["trainer"] = self.need_mib
        self.process = ProcessId(2000 + epoch, epoch)
        self.running.set()
        try:
            self.last = await self._end()
        finally:
            self.world.held.pop("trainer")
            self.process = None
            self.world.log.append("trainer ended")
        return self.last

    async def _end(self) -> TrainerEnd:
        act = self.ends.popleft() if self.ends else TrainerEnd(True, "")
        if isinstance(act, TrainerEnd):
            await asyncio.sleep(0)
            return act
        if callable(act):
            act()
            return TrainerEnd(True, "")
        await asyncio.Event().wait()
        raise AssertionError

    async def publish(self) -> LiveAdapter | None:
        self.world.log.append("publish")
        self.published += 1
        return self.result if self.last is not None and self.last.succeeded else None


class FakeGround:
    """A scripted `Ground`; proofs are the real `prove` over two samples of the world."""

    def __init__(self, world: World, *, exact: bool = True) -> None:
        self.world = world
        self.exact = exact
        self.device_id = "gpu-fake"
        self.boot_id = "boot"
        self.owned = False

    async def take(self) -> None:
        if self.world.holder:
            raise DeviceBusyError(f"The device is held by {self.world.holder}.")
        self.owned = True

    async def sweep(self) -> tuple[ProcessId, ...]:
        self.world.log.append("sweep")
        return ()

    async def sample(self) -> MemorySample:
        return MemorySample(self.world.free_mib, TOTAL_MIB, tuple(self.world.foreign))

    async def prove(
        self, mib: int, *, margin_mib: int, settle_s: float, ours: Iterable[ProcessId] = (), borrowed: bool = False
    ) -> Proof:
        await asyncio.sleep(0)
        known = frozenset(holder.pid for holder in self.world.foreign) if borrowed else frozenset[int]()
        sample = await self.sample()
        self.world.log.append(f"prove {mib}")
        return prove([sample, sample], Need(mib, margin_mib, known))

    async def prove_host(self, mib: int, *, margin_mib: int) -> Proof:
        sample = MemorySample(self.world.host_free_mib, TOTAL_MIB)
        return prove([sample, sample], Need(mib, margin_mib))

    def release(self) -> None:
        self.owned = False


@dataclass
class Stage:
    """A device on fakes, running."""

    world: World
    device: Device
    server: FakeServer
    other: FakeServer
    recorder: MemoryRecorder
    db: Database

    async def reaches(self, *states: DeviceState) -> None:
        """Return once the device is in one of these states."""
        async with asyncio.timeout(60):
            await self.device.until(lambda snapshot: snapshot.state in states)

    async def ask(self, *, wait: bool = True) -> str:
        """One request."""
        async with self.device.admit(wait=wait) as lease:
            assert isinstance(lease.server, FakeServer)
            return await lease.guard(lease.server.answer())

    def states(self) -> list[str]:
        """Every state that was recorded, in order."""
        names = [str(event.payload["state"]) for event in self.recorder.events if event.subject.startswith("device/")]
        return [name for place, name in enumerate(names) if place == 0 or names[place - 1] != name]


@asynccontextmanager
async def staged(path: Path, settings: DeviceSection = SETTINGS, *, sleeps: bool = True) -> AsyncIterator[Stage]:
    """A running device with two backends: scripted, and llamacpp to switch to."""
    world = World()
    server = FakeServer(world, sleeps=sleeps)
    other = FakeServer(world, BackendName.LLAMACPP)
    clock, recorder = SystemClock(), MemoryRecorder()
    db = await Database.open(path / "rune.db", SETS, clock)
    servers = {server.backend: server, other.backend: other}
    setting = Setting(settings, servers, BackendName.SCRIPTED, "base", 2, {})
    device = Device(setting, FakeGround(world), db, recorder, clock)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(device.run())
            yield Stage(world, device, server, other, recorder, db)
            async with asyncio.timeout(60):
                await device.close()
    finally:
        await db.close()
