"""Does what concerns the model server: start, sleep, wake, verify, stop, and its adapters. Decides nothing.

Whatever fails here becomes an observation with a plain sentence; only a bug becomes an exception. Each call may be
cancelled at any moment: the state it belongs to was left, and the effects of the next one clean up.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from engine.api_device import BackendName
from engine.config import DeviceSection
from engine.device.admission import Admission
from engine.device.contracts import LiveAdapter, Oracle, OracleMismatchError, ProcessId, Server, Trainer
from engine.device.ground import Ground
from engine.device.live import LiveAdapters, merged, restricted, unknown
from engine.device.messages import (
    NotVerified,
    Observation,
    ServerFailed,
    ServerReady,
    SleepFailed,
    Slept,
    StartServer,
    Verified,
    WakeFailed,
    Woke,
)
from engine.errors import DeviceBusyError, EnvironmentUnfitError, InputError, ProviderError, RuneError
from registry.crash import crash_point
from registry.errors import RegistryError

SENT_S = 0.002
"""After which a request to a server on this machine has left us."""
LEAK_MIB = 512
"""What a sleeping server may hold more than in its first sleep before it is restarted."""
FAILURES = (RuneError, RegistryError, OSError)
"""What a call of a server or a trainer may fail with; anything else is a bug."""

log = logging.getLogger(__name__)


@dataclass
class Levels:
    """Free memory of the device at the turning points of the present server, MiB."""

    baseline: int | None = None
    first_asleep: int | None = None
    wake_need: int = 0
    """What its last sleep gave back, so what its wake takes."""


@dataclass
class Parts:
    """What the owner and its hands share. One event loop, one owner."""

    ground: Ground
    servers: Mapping[BackendName, Server]
    admission: Admission
    live: LiveAdapters
    settings: DeviceSection
    watch: Callable[[Server, int], None]
    """Called with a server that has come up, and its epoch."""
    spawned: Callable[[], None]
    """Called when a trainer runs."""
    oracles: dict[BackendName, Oracle] = field(default_factory=dict[BackendName, Oracle])
    trainers: dict[str, Trainer] = field(default_factory=dict[str, Trainer])
    levels: Levels = field(default_factory=Levels)


class ServerHands:
    """Carries out what concerns the model server."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.current: Server | None = None
        """The server that was started last and not stopped yet."""
        self.failure: RuneError | None = None
        """Why the last start failed, as it was raised."""

    async def start(self, effect: StartServer, step: int) -> Observation:
        """Prove its memory, start it, load the live adapters, record its answers."""
        server = self._parts.servers[effect.backend]
        settings = self._parts.settings
        proof = await self._parts.ground.prove(
            server.need_mib,
            margin_mib=settings.margin_mib,
            settle_s=settings.settle_s,
            borrowed=effect.backend is BackendName.OLLAMA,
        )
        if not proof.proven:
            self.failure = EnvironmentUnfitError(f"{effect.backend} cannot be started. {proof.reason}")
            return ServerFailed(step, str(self.failure))
        self.current = server
        self._parts.levels = Levels(self._parts.levels.baseline)
        try:
            await server.start(effect.epoch)
            self._parts.watch(server, effect.epoch)
            await self._load_all(server)
            if effect.record:
                self._parts.oracles[server.backend] = await self._recorded(server, self._parts.live.held, base=True)
        except FAILURES as error:
            await self.stop()
            self.failure = error if isinstance(error, RuneError) else EnvironmentUnfitError(str(error))
            return ServerFailed(step, str(error), permanent=_permanent(error))
        return ServerReady(step, recorded=effect.record)

    async def _load_all(self, server: Server) -> None:
        """One that cannot be loaded is left out: whoever asks for it is told, and the others are served."""
        if not server.can_load_adapters:
            return
        live = self._parts.live
        for adapter in live.surplus():
            live.drop(adapter.name)
        for adapter in live.missing:
            try:
                await server.load_adapter(adapter)
            except FAILURES as error:
                log.warning("adapter %s is not live any more: %s", adapter.name, error)
                live.drop(adapter.name)
            else:
                live.note_held(adapter.name)

    async def stop(self) -> None:
        """End the present server's tree, if there is one."""
        self._parts.admission.abort()
        if self.current is not None:
            await self.current.stop()
            self.current = None
        self._parts.live.server_gone()

    async def sleep(self, step: int) -> Observation:
        """Put it to sleep; it must say so and live. Its answers are recorded first, while they are right."""
        server = self._running()
        process = server.process
        before = await self._parts.ground.sample()
        try:
            await self.record_new(server)
            with _sent("device.sleep_sent"):
                await server.sleep()
        except FAILURES as error:
            return SleepFailed(step, str(error))
        crash_point("device.asleep_unrecorded")
        if process is not None and server.process is None:
            return SleepFailed(step, f"{server.backend} said that it sleeps, and died.")
        return self._slept(step, before.free_mib, (await self._parts.ground.sample()).free_mib)

    def _slept(self, step: int, awake_mib: int, asleep_mib: int) -> Slept:
        levels = self._parts.levels
        levels.wake_need = max(0, asleep_mib - awake_mib)
        if levels.first_asleep is None:
            levels.first_asleep = asleep_mib
        residual = levels.first_asleep - asleep_mib
        log.info("asleep: %s MiB free, %s MiB given back", asleep_mib, levels.wake_need)
        return Slept(step, leaking=self._parts.ground.exact and residual > LEAK_MIB)

    async def wake(self, settle_s: float, step: int) -> Observation:
        """See that its memory is free, then wake it."""
        server, ground, need = self._running(), self._parts.ground, self._parts.levels.wake_need
        if (await ground.sample()).free_mib < need:
            proof = await ground.prove(need, margin_mib=0, settle_s=settle_s, ours=self.ours(), borrowed=True)
            if not proof.proven:
                return WakeFailed(step, f"{server.backend} cannot be woken. {proof.reason}")
        try:
            with _sent("device.wake_sent"):
                await server.wake()
        except FAILURES as error:
            return WakeFailed(step, str(error))
        return Woke(step)

    async def verify(self, step: int) -> Observation:
        """Compare its answers, then load and record what is new."""
        server, live = self._running(), self._parts.live
        crash_point("device.awake_no_adapter")
        try:
            await self.unload(server, live.surplus())  # first: a full server would choose by itself what goes
            async with asyncio.TaskGroup() as group:
                # What is new is loaded beside the questions: it is another model to the server, and people wait.
                group.create_task(self._load_all(server))
                failure = await self._compare(server)
            if failure is None:
                await self.record_new(server)
                crash_point("device.alias_flipped")
        except FAILURES as error:
            failure = error
        match failure:
            case None:
                return Verified(step)
            case OracleMismatchError():
                return NotVerified(step, f"{server.backend} answers otherwise than before: {failure}", wrong=True)
            case _:
                return NotVerified(step, f"{server.backend} could not be verified: {failure}", wrong=False)

    async def _compare(self, server: Server) -> Exception | None:
        """What is wrong with the answers of the base and of the adapters that it held, if something is."""
        oracle = self._parts.oracles.get(server.backend)
        if oracle is None:
            return None
        known = restricted(oracle, tuple(adapter.name for adapter in self._parts.live.held))
        try:
            await server.verify(known)
        except (OracleMismatchError, *FAILURES) as error:
            return error
        return None

    async def record_new(self, server: Server) -> None:
        """Remember what adapters say of which nothing is known yet.

        Raises:
            ProviderError
        """
        oracles = self._parts.oracles
        known = oracles.get(server.backend)
        if new := unknown(known, self._parts.live.held):
            # What the base says is known, and stays so: asking it again is time in which nobody is served.
            oracles[server.backend] = merged(known, await self._recorded(server, new, base=known is None))

    async def _recorded(self, server: Server, adapters: tuple[LiveAdapter, ...], *, base: bool) -> Oracle:
        """What they say. An adapter that loads and cannot answer is not live any more, and costs no other one.

        Raises:
            ProviderError: the base model does not answer.
        """
        try:
            return await server.record(adapters, base=base)
        except FAILURES:
            if not adapters:
                raise
        said = await server.record(())
        for adapter in adapters:
            try:
                said = merged(said, await server.record((adapter,), base=False))
            except FAILURES as error:
                log.warning("adapter %s cannot answer and is not live any more: %s", adapter.name, error)
                await self.unload(server, (adapter,))
        return said

    async def load_one(self, server: Server, adapter: LiveAdapter) -> None:
        """Make an adapter live while the server serves, and unload what is then too much.

        Raises:
            ProviderError, AdapterUnsupportedError
        """
        live = self._parts.live
        await server.load_adapter(adapter)
        live.use(adapter)
        live.note_held(adapter.name)
        if self._parts.admission.in_flight <= 1:
            # Beside others an answer is another one in bfloat16; then it is recorded before the next sleep.
            await self.record_new(server)
            if not live.holds(adapter.name):
                raise ProviderError(f"Adapter {adapter.name} was loaded and cannot answer; see the engine's log.")
        crash_point("device.alias_flipped")
        # One at a time: while the server lets go of one, a request may have taken up another.
        while gone := live.surplus({adapter.name, *self._parts.admission.adapters_in_use()}):
            await self.unload(server, gone[:1])

    async def unload(self, server: Server, adapters: tuple[LiveAdapter, ...]) -> None:
        """Take adapters out of the server; one that it will not let go of is only noted."""
        for adapter in adapters:
            self._parts.live.drop(adapter.name)
            try:
                await server.unload_adapter(adapter.name)
            except FAILURES as error:
                log.warning("adapter %s could not be unloaded: %s", adapter.name, error)

    def _running(self) -> Server:
        assert self.current is not None, "no server was started"
        return self.current

    def ours(self) -> tuple[ProcessId, ...]:
        """Root of the present server's tree."""
        process = self.current.process if self.current is not None else None
        return () if process is None else (process,)


def oracle_sha(oracle: Oracle | None) -> str | None:
    """Names an oracle in the journal."""
    return None if oracle is None else hashlib.sha256(repr(oracle).encode()).hexdigest()


def _permanent(error: Exception) -> bool:
    """Something has to be installed or corrected first; that a device is busy passes by itself."""
    return isinstance(error, EnvironmentUnfitError | InputError) and not isinstance(error, DeviceBusyError)


@contextmanager
def _sent(point: str) -> Generator[None]:
    """A crash point between a request and its answer: passed while the block awaits, or at the latest after it."""
    passed = False

    def passing() -> None:
        nonlocal passed
        passed = True
        crash_point(point)

    timer = asyncio.get_running_loop().call_later(SENT_S, passing)
    try:
        yield
    finally:
        timer.cancel()
    if not passed:
        passing()
