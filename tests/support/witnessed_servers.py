"""A model server and a trainer that are real process trees, with a witness of who computes: an flock on one file.

Whoever computes holds it, and so do its daemons, since a forked process shares it. Who cannot take it has found another
owner alive, and writes that down: no test and no owner is asked whether a process is really gone.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

from engine.api_device import BackendName
from engine.device.contracts import LiveAdapter, Oracle, ProcessId, TrainerEnd, Utterance
from engine.device.guarded import Command, Exit, Guarded, spawn
from engine.device.lock import DeviceLock
from engine.errors import ProviderError

START_S = 1.0
GRACE_S = 0.1
KINDS = ("honest",) * 12 + ("stubborn",) * 4 + ("crashes", "hangs")
"""What a started server turns out to be."""

PROGRAM = """
import fcntl, os, signal, sys, time
kind, witness, violations = sys.argv[1:4]
owned = os.open(witness, os.O_RDWR | os.O_CREAT)

def own():
    try:
        fcntl.flock(owned, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        with open(violations, "a") as stream:
            stream.write(f"{kind} {os.getpid()} began while another one was there\\n")

def sleep(*_):
    fcntl.flock(owned, fcntl.LOCK_UN)
    os.write(1, b"asleep\\n")

def wake(*_):
    own()
    os.write(1, b"awake\\n")

own()
if kind == "crashes":
    sys.exit(3)
if kind == "hangs":
    time.sleep(1000)
if kind == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(1000)
        os._exit(0)
    os.wait()
if kind == "trainer":
    time.sleep(float(sys.argv[4]))
    sys.exit(int(sys.argv[5]))
signal.signal(signal.SIGUSR1, sleep)
signal.signal(signal.SIGUSR2, wake)
os.write(1, b"ready\\n")
while True:
    signal.pause()
"""


@dataclass(frozen=True)
class Site:
    """Where it all happens."""

    run: Path
    dice: random.Random
    lock: DeviceLock
    children: list[Guarded] = field(default_factory=list[Guarded])
    """Every one that was ever started."""

    async def spawn(self, command: Command) -> Guarded:
        child = await spawn(command)
        self.children.append(child)
        return child

    @property
    def violations(self) -> Path:
        return self.run / "violations"

    def command(self, role: str, *arguments: str) -> Command:
        argv = [sys.executable, "-I", "-S", "-c", textwrap.dedent(PROGRAM), arguments[0]]
        argv += [str(self.run / "witness"), str(self.violations), *arguments[1:]]
        environment = {"PATH": os.environ["PATH"]}
        records = self.run / "guardians"
        return Command(
            role, tuple(argv), environment, self.run / "log", records, 1, GRACE_S, self.lock, pipe_stdout=True
        )


class WitnessedServer:
    """One of a few kinds of server, drawn anew at each start."""

    can_sleep = True
    can_load_adapters = False
    need_mib = 1

    def __init__(self, site: Site, backend: BackendName) -> None:
        self.backend = backend
        self._site = site
        self._child: Guarded | None = None
        self._stopping = False

    @property
    def process(self) -> ProcessId | None:
        return self._child.process if self._child is not None and not self._child.ended else None

    @property
    def child_pid(self) -> int | None:
        return self._child.child_pid if self.process is not None and self._child else None

    async def start(self, epoch: int) -> None:
        await self.stop()
        child = self._child = await self._site.spawn(self._site.command("server", self._site.dice.choice(KINDS)))
        self._stopping = False
        try:
            await self._word(child, "ready")
        except BaseException:
            await self.stop()
            raise

    async def _word(self, child: Guarded, word: str) -> None:
        assert child.stdout is not None
        try:
            async with asyncio.timeout(START_S):
                said = (await child.stdout.readline()).decode().strip()
        except TimeoutError as error:
            raise ProviderError(f"it never was {word}") from error
        if said != word:
            raise ProviderError(f"it said {said!r} instead of {word!r}")

    async def stop(self) -> None:
        self._stopping = True
        if self._child is not None:
            await self._child.stop(GRACE_S)

    async def _signal(self, number: signal.Signals, word: str) -> None:
        child = self._child
        if child is None or child.ended:
            raise ProviderError("it is dead")
        try:
            os.kill(child.child_pid, number)
        except ProcessLookupError as error:
            raise ProviderError("it is dead") from error
        await self._word(child, word)

    async def sleep(self) -> None:
        if self._site.dice.random() < 0.1:
            raise ProviderError("500")
        await self._signal(signal.SIGUSR1, "asleep")

    async def wake(self) -> None:
        await self._signal(signal.SIGUSR2, "awake")
        if self._site.dice.random() < 0.1:
            raise ProviderError("500")

    async def load_adapter(self, adapter: LiveAdapter) -> None:
        raise AssertionError(adapter)

    async def unload_adapter(self, name: str) -> None:
        raise AssertionError(name)

    async def record(self, adapters: tuple[LiveAdapter, ...], *, base: bool = True) -> Oracle:
        return Oracle((("base", Utterance(("a",), (0.0,))),))

    async def verify(self, oracle: Oracle) -> None:
        if self.process is None:
            raise ProviderError("it is dead")

    async def died(self) -> str:
        child = self._child
        assert child is not None
        reason = (await child.wait()).reason
        if self._stopping or child is not self._child:
            await asyncio.Event().wait()
        return reason


class WitnessedTrainer:
    """A trainer that runs for a moment, and sometimes fails."""

    need_mib = 1
    host_mib = 0

    def __init__(self, site: Site, job_id: str) -> None:
        self.job_id = job_id
        self.settled = 0
        self._site = site
        self._child: Guarded | None = None
        self._exit: Exit | None = None

    @property
    def process(self) -> ProcessId | None:
        return self._child.process if self._child is not None and not self._child.ended else None

    async def run(self, epoch: int) -> TrainerEnd:
        dice = self._site.dice
        status = "0" if dice.random() < 0.8 else "70"
        child = self._child = await self._site.spawn(
            self._site.command("trainer", "trainer", f"{dice.uniform(0, 0.1):.3f}", status)
        )
        try:
            self._exit = await child.wait()
        except asyncio.CancelledError:
            self._exit = await child.stop(GRACE_S)
            raise
        return TrainerEnd(self._exit.code == 0, self._exit.reason)

    async def publish(self) -> LiveAdapter | None:
        self.settled += 1
        return None
