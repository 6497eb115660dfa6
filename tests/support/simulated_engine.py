"""A machine, its processes and a whole engine around the real owner of the device, in virtual time.

The world plays what the owner cannot trust: servers that fail, hang, die or answer wrongly at each of their calls,
memory that comes back late, engines that are killed. It notes each thing that must never be. Nothing of the owner,
its scheduler, its hands or its admission is replaced; the database is a row in memory, since threads have no seed.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NoReturn

from support.simulated_loop import SimulatedClock, SimulatedLoop

from engine.api_device import BackendName
from engine.api_device import DeviceState as S
from engine.config import DeviceSection
from engine.device.contracts import (
    LiveAdapter,
    MemorySample,
    Oracle,
    OracleMismatchError,
    ProcessId,
    TrainerEnd,
    Utterance,
)
from engine.device.memory import Need, Proof, prove, settle
from engine.device.owner import Device
from engine.device.setting import Setting
from engine.device.wishes import STOPS
from engine.errors import DeviceBusyError, ProviderError

TOTAL_MIB = 24_000
SERVER_MIB, TRAINER_MIB, ASLEEP_MIB = 12_000, 14_000, 800
HANG_S = 10_000.0
"""Longer than every deadline of the owner."""
SETTINGS = DeviceSection(
    gpu="",
    drain_s=20,
    sleep_s=60,
    settle_s=5,
    margin_mib=512,
    trainer_grace_s=30,
    heartbeat_s=30,
    oracle_tokens=8,
    oracle_logprob=0.01,
    start_tries=5,
)
ADAPTER_STATES = {S.STARTING, S.SERVING, S.VERIFYING, S.DRAINING}
"""I5; DRAINING too: a request in flight may need one."""


@dataclass(eq=False)
class Tree:
    """A process tree with its guardian."""

    name: str
    mib: int
    generation: int
    process: ProcessId
    computes: bool = True
    gone: asyncio.Event = field(default_factory=asyncio.Event)


class World:
    """The truth. `faults` is the chance of each call to go wrong."""

    def __init__(self, loop: SimulatedLoop, faults: float) -> None:
        self.loop = loop
        self.dice = loop.dice
        self.clock = SimulatedClock(loop)
        self.faults = faults
        self.generation = 0
        self.trees: list[Tree] = []
        self.late_mib = 0
        self.row: dict[str, Any] | None = None
        self.jobs: dict[str, str] = {}
        self.settled: Counter[str] = Counter()
        self.violations: list[str] = []
        self.transitions: list[tuple[S, S]] = []
        self.device: WatchedDevice
        self._pids = 1000
        self._limbo: list[asyncio.Event] = []

    def violation(self, what: str) -> None:
        self.violations.append(f"{self.loop.now:.2f} s: {what}")

    # --- engines ---

    async def turn(self, generation: int) -> None:
        """Every deed of an engine passes here; those of a killed one never happen."""
        if generation != self.generation:
            await self.for_ever()

    async def for_ever(self) -> None:
        # Kept: a task that waits for what nobody knows of would be collected as garbage, and wake up for that.
        event = asyncio.Event()
        self._limbo.append(event)
        await event.wait()

    async def work(self, generation: int, least_s: float, most_s: float) -> None:
        await asyncio.sleep(self.dice.uniform(least_s, most_s))
        await self.turn(generation)

    def goes_wrong(self) -> bool:
        return self.dice.random() < self.faults

    def kill_engine(self) -> None:
        """SIGKILL: its guardians end its trees a while later, and hold the lock until then."""
        self.generation += 1
        for tree in self.trees:
            self.loop.call_later(self.dice.uniform(0.01, 5), self.end, tree)

    # --- processes and memory ---

    def spawn(self, name: str, mib: int, generation: int) -> Tree:
        self._pids += 1
        if self.free_mib < mib:
            self.violation(f"I2: {name} was started with {self.free_mib} of {mib} MiB free")
        tree = Tree(name, mib, generation, ProcessId(self._pids, self._pids))
        self.trees.append(tree)
        self.check_owners()
        return tree

    def check_owners(self) -> None:
        computing = [tree.name for tree in self.trees if tree.computes]
        if len(computing) > 1:
            self.violation(f"I1: {' and '.join(computing)} compute at once")

    def end(self, tree: Tree) -> None:
        if tree in self.trees:
            self.trees.remove(tree)
            self.give_back(tree.mib)
            tree.gone.set()

    def give_back(self, mib: int) -> None:
        """Memory is free again a while after it was let go of."""
        self.late_mib += mib
        self.loop.call_later(self.dice.uniform(0, 1.5), self._is_back, mib)

    def _is_back(self, mib: int) -> None:
        self.late_mib -= mib

    @property
    def free_mib(self) -> int:
        return TOTAL_MIB - self.late_mib - sum(tree.mib for tree in self.trees)


class Rows:
    """`Database` and `Recorder`, as far as the device's journal asks: one row, which no crash loses."""

    def __init__(self, world: World, generation: int) -> None:
        self._world = world
        self._generation = generation
        self._found: dict[str, Any] | None = None

    async def read(self, fn: Callable[[Any], Any]) -> Any:
        return fn(self)

    async def write(self, fn: Callable[[Any], Any]) -> Any:
        await self._world.work(self._generation, 0.0, 0.01)
        fn(self)

    def execute(self, sql: str, parameters: Any = ()) -> Rows:
        if isinstance(parameters, Mapping):
            self._world.row = dict(parameters)
        self._found = self._world.row if " FROM devices " in sql else None
        return self

    def fetchone(self) -> Any:
        return self._found

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def record(self, tx: object, **event: object) -> None:
        """Nobody listens."""


class SimulatedGround:
    """The machine as one engine sees it. The memory proof is the product's own."""

    device_id = "gpu-GPU-sim"
    boot_id = "boot"
    exact = True

    def __init__(self, world: World, generation: int) -> None:
        self._world = world
        self._generation = generation

    async def take(self) -> None:
        for _ in range(300):
            await self._world.work(self._generation, 0.05, 0.05)
            if all(tree.generation == self._generation for tree in self._world.trees):
                return
        raise DeviceBusyError("held")

    async def sweep(self) -> tuple[ProcessId, ...]:
        await self._world.turn(self._generation)
        for tree in list(self._world.trees):
            self._world.end(tree)
        return ()

    async def sample(self) -> MemorySample:
        await self._world.turn(self._generation)
        return MemorySample(self._world.free_mib, TOTAL_MIB)

    async def prove(
        self, mib: int, *, margin_mib: int, settle_s: float, ours: Iterable[ProcessId] = (), borrowed: bool = False
    ) -> Proof:
        memory: Any = self
        return await settle(memory, Need(mib, margin_mib), settle_s, self._world.clock)

    async def prove_host(self, mib: int, *, margin_mib: int) -> Proof:
        sample = MemorySample(TOTAL_MIB, TOTAL_MIB)
        return prove([sample, sample], Need(mib, margin_mib))

    def release(self) -> None:
        if self._generation == self._world.generation and self._world.trees:
            self._world.violation(f"the lock was let go of while {self._world.trees[0].name} lived")


class SimulatedServer:
    """A model server that can sleep, and whatever may happen to it."""

    can_sleep = True
    can_load_adapters = True
    need_mib = SERVER_MIB

    def __init__(self, world: World, generation: int, backend: BackendName) -> None:
        self.backend = backend
        self.world = world
        self.generation = generation
        self.tree: Tree | None = None
        self.asleep = False
        self.wrong = False
        self.stopping = False

    @property
    def process(self) -> ProcessId | None:
        return self.tree.process if self.tree is not None and not self.tree.gone.is_set() else None

    async def _work(self, least_s: float, most_s: float) -> None:
        await self.world.work(self.generation, least_s, most_s)

    async def _may_fail(self, what: str) -> Tree:
        """The tree, if this call goes well."""
        if self.world.goes_wrong():
            fate = self.world.dice.choice(["error", "hang", "die"])
            if fate == "hang":
                await self._work(HANG_S, HANG_S)
            if fate == "die" and self.tree is not None:
                self.world.end(self.tree)
            self._fail(f"{what} failed")
        if self.process is None or self.tree is None:
            self._fail(f"{what}: it is dead")
        return self.tree

    def _fail(self, reason: str) -> NoReturn:
        raise ProviderError(reason)

    async def start(self, epoch: int) -> None:
        await self.stop()
        await self._work(0.0, 0.1)
        self.stopping = self.asleep = self.wrong = False
        self.tree = self.world.spawn(f"server {self.backend}", self.need_mib, self.generation)
        try:
            await self._work(1, 40)
            await self._may_fail("start")
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        self.stopping = True
        if self.tree is None or self.tree.gone.is_set():
            return
        # The guardian ends it whether anybody waits for that or not.
        if self.generation == self.world.generation:
            self.world.loop.call_later(self.world.dice.uniform(0, 4), self.world.end, self.tree)
        await self.tree.gone.wait()
        await self.world.turn(self.generation)

    async def sleep(self) -> None:
        await self._work(0.1, 10)
        keeps = self.world.goes_wrong()
        tree = await self._may_fail("sleep")
        self.asleep, tree.computes = True, False
        if not keeps:  # else it says that it sleeps, and has given nothing back
            self.world.give_back(tree.mib - ASLEEP_MIB)
            tree.mib = ASLEEP_MIB

    async def wake(self) -> None:
        await self._work(0.1, 5)
        tree = await self._may_fail("wake")
        if self.world.free_mib < SERVER_MIB - tree.mib:
            self._fail("CUDA out of memory")
        tree.mib, tree.computes, self.asleep = SERVER_MIB, True, False
        self.world.check_owners()
        self.wrong = self.world.goes_wrong()

    def _check_state(self) -> None:
        state = self.world.device.snapshot.state
        if self.asleep or state not in ADAPTER_STATES:
            self.world.violation(f"I5: an adapter call in {state}")

    async def load_adapter(self, adapter: LiveAdapter) -> None:
        self._check_state()
        await self._work(0.0, 1)
        await self._may_fail("load")

    async def unload_adapter(self, name: str) -> None:
        self._check_state()
        await self._work(0.0, 0.1)

    async def record(self, adapters: tuple[LiveAdapter, ...], *, base: bool = True) -> Oracle:
        await self._work(0.1, 2)
        await self._may_fail("record")
        said = Utterance(("a",), (0.0,))
        return Oracle((*((("base", said),) if base else ()), *((adapter.name, said) for adapter in adapters)))

    async def verify(self, oracle: Oracle) -> None:
        await self._work(0.1, 2)
        await self._may_fail("verify")
        if self.wrong:
            raise OracleMismatchError("!!!!!!!!")

    async def died(self) -> str:
        assert self.tree is not None
        await self.tree.gone.wait()
        await self.world.turn(self.generation)
        if self.stopping:
            await self.world.for_ever()
        return "it was killed"


class SimulatedTrainer:
    """One attempt of a job."""

    need_mib = TRAINER_MIB
    host_mib = 0

    def __init__(self, world: World, generation: int, job_id: str) -> None:
        self.world = world
        self.generation = generation
        self.job_id = job_id
        self.tree: Tree | None = None
        self.end: TrainerEnd | None = None

    @property
    def process(self) -> ProcessId | None:
        return self.tree.process if self.tree is not None and not self.tree.gone.is_set() else None

    async def run(self, epoch: int) -> TrainerEnd:
        await self.world.work(self.generation, 0.0, 0.1)
        snapshot = self.world.device.snapshot
        if not snapshot.proved_epoch == snapshot.epoch == epoch:
            self.world.violation("I2: a trainer was started without a proof in its epoch")
        tree = self.tree = self.world.spawn(f"trainer {self.job_id}", self.need_mib, self.generation)
        try:
            self.end = await self._train(tree)
        except asyncio.CancelledError:
            self.end = TrainerEnd(False, "cancelled")
            await self.world.work(self.generation, 0.0, 20)  # a checkpoint
            raise
        finally:
            if self.generation == self.world.generation:
                self.world.end(tree)
        return self.end

    async def _train(self, tree: Tree) -> TrainerEnd:
        with suppress(TimeoutError):
            async with asyncio.timeout(self.world.dice.uniform(5, 600)):
                await tree.gone.wait()
        await self.world.turn(self.generation)
        if tree.gone.is_set():
            return TrainerEnd(False, "it was killed")
        if self.world.goes_wrong():
            return TrainerEnd(False, "out of memory", retry_smaller=True)
        return TrainerEnd(not self.world.goes_wrong(), "")

    async def publish(self) -> LiveAdapter | None:
        await self.world.work(self.generation, 0.1, 5)
        if self.end is None or not self.end.succeeded:
            self.settle("failed")
            return None
        self.settle("succeeded")
        return LiveAdapter(f"{self.job_id}-adapter", "/adapters")

    def settle(self, state: str) -> None:
        """The job's row: once."""
        if self.world.jobs[self.job_id] == "running":
            self.world.jobs[self.job_id] = state
            self.world.settled[self.job_id] += 1


class WatchedDevice(Device):
    """The real owner; the world sees each transition that it decides."""

    def __init__(self, world: World, generation: int, servers: Mapping[BackendName, Any]) -> None:
        rows: Any = Rows(world, generation)
        ground: Any = SimulatedGround(world, generation)
        setting = Setting(SETTINGS, servers, BackendName.VLLM, "base", 4, {})
        super().__init__(setting, ground, rows, rows, world.clock)
        self._world = world
        self._generation = generation

    async def _apply(self, decision: Any) -> None:
        before = self.snapshot
        await super()._apply(decision)
        after = self.snapshot
        if self._generation != self._world.generation or before.step in (0, after.step):
            return
        self._world.transitions.append((before.state, after.state))
        if after.state is S.SERVING and after.verified_epoch != after.epoch:
            self._world.violation("I3: SERVING without a verification in this epoch")


class SimulatedEngine:
    """What the engine does around the device, reduced to its queue of jobs."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.generation = world.generation
        backends = (BackendName.VLLM, BackendName.LLAMACPP)
        self.servers = {name: SimulatedServer(world, self.generation, name) for name in backends}
        self.device = world.device = WatchedDevice(world, self.generation, self.servers)
        self._wanted = asyncio.Event()

    async def run(self) -> None:
        """One life, until the device is closed."""
        for job_id, state in self.world.jobs.items():
            if state == "running":  # recovery: it was a dead engine's
                self.world.jobs[job_id] = "queued"
        async with asyncio.TaskGroup() as group:
            owner = group.create_task(self.device.run())
            queue = group.create_task(self._work())
            await owner
            queue.cancel()

    async def _work(self) -> None:
        while True:
            self._wanted.clear()
            job_id = next((name for name, state in self.world.jobs.items() if state == "queued"), None)
            if job_id is None:
                await self._wanted.wait()
                continue
            await self.world.turn(self.generation)
            self.world.jobs[job_id] = "running"
            trainer = SimulatedTrainer(self.world, self.generation, job_id)
            end = await self.device.train(trainer)
            await self.world.turn(self.generation)
            if self.world.jobs[job_id] == "running":
                if end.reason == STOPS:
                    self.world.jobs[job_id] = "queued"
                    return
                trainer.settle("failed")

    def enqueue(self, job_id: str) -> None:
        self.world.jobs[job_id] = "queued"
        self._wanted.set()
