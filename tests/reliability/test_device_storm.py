"""★G1: 1,000 seeded events on a device of real processes: requests, switches, jobs, cancellations, and kill -9 of
servers and guardians; servers that crash, hang, ignore TERM and daemonise. Never two owners; every waiter is answered.

RUNE_G1=EVENTS:SEED sets other numbers.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from support import witnessed_servers
from support.device_fakes import SETTINGS
from support.engine_parts import SETS
from support.witnessed_servers import Site, WitnessedServer, WitnessedTrainer

from engine.api_device import BackendName
from engine.device import guarded, guardian, memory, transitions
from engine.device.ground import Machine
from engine.device.memory import HostMemory
from engine.device.owner import Device
from engine.device.setting import Setting
from engine.errors import RequestAbortedError, RuneError
from registry.clock import SystemClock
from registry.db import Database
from registry.journal import MemoryRecorder

EVENTS, SEED = map(int, os.environ.get("RUNE_G1", "1000:1").split(":"))
ACTORS = 4
WEIGHTS = {"ask": 8, "train": 4, "switch": 2, "cancel": 1, "kill": 3, "kill_guardian": 1, "retry": 2}
ANSWER_S = 30.0
"""Every waiter's deadline: some starts that fail and a handover take a tenth of it."""
BACKENDS = (BackendName.SCRIPTED, BackendName.LLAMACPP)
QUICK = SETTINGS.model_copy(update={"sleep_s": 1.0, "settle_s": 2.0, "margin_mib": 1, "start_tries": 4})


class Storm:
    """One device and those who want something of it."""

    def __init__(self, device: Device, site: Site, servers: dict[BackendName, WitnessedServer]) -> None:
        self.device = device
        self.site = site
        self.dice = site.dice
        self.servers = servers
        self.counts: Counter[str] = Counter()
        self.trainers: list[WitnessedTrainer] = []

    async def event(self) -> None:
        name = self.dice.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        self.counts[name] += 1
        async with asyncio.timeout(ANSWER_S):
            await getattr(self, name)()

    async def ask(self) -> None:
        patience_s = self.dice.choice([None, None, self.dice.uniform(0, 0.3)])
        for _ in range(10):
            try:
                async with asyncio.timeout(patience_s), self.device.admit() as lease:
                    await lease.guard(asyncio.sleep(self.dice.uniform(0, 0.02)))
            except RequestAbortedError:
                continue
            except TimeoutError:
                self.counts["gave up"] += 1
            except RuneError:
                self.counts["refused"] += 1
            else:
                self.counts["answered"] += 1
            return

    async def train(self) -> None:
        trainer = WitnessedTrainer(self.site, f"job{len(self.trainers)}")
        self.trainers.append(trainer)
        end = await self.device.train(trainer)
        assert end.succeeded or end.reason
        self.counts["trained" if end.succeeded else "failed"] += 1

    async def switch(self) -> None:
        with suppress(RuneError):
            switched = await self.device.use_backend(self.dice.choice(BACKENDS))
            assert switched.switched or switched.reason

    async def cancel(self) -> None:
        if self.trainers:
            self.device.cancel_training(self.trainers[-1].job_id)

    async def kill(self) -> None:
        self._kill([server.child_pid for server in self.servers.values()])

    async def kill_guardian(self) -> None:
        self._kill([process.pid for server in self.servers.values() if (process := server.process)])

    def _kill(self, pids: list[int | None]) -> None:
        for pid in pids:
            if pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    async def retry(self) -> None:
        self.device.retry()

    async def actor(self, events: int) -> None:
        for _ in range(events):
            await self.event()


async def storm(run: Path, events: int) -> tuple[Storm, str]:
    """Run them all; who did what, and what the witness saw."""
    clock = SystemClock()
    (run / "run").mkdir()
    machine = await asyncio.to_thread(Machine, HostMemory(), run, clock)
    await machine.take()
    assert machine.lock is not None
    site = Site(run / "run", random.Random(SEED), machine.lock)
    servers = {name: WitnessedServer(site, name) for name in BACKENDS}
    db = await Database.open(run / "rune.db", SETS, clock)
    device = Device(Setting(QUICK, servers, BACKENDS[0], "base", 2, {}), machine, db, MemoryRecorder(), clock)
    found = Storm(device, site, servers)
    try:
        async with asyncio.TaskGroup() as life:
            life.create_task(device.run())
            async with asyncio.TaskGroup() as actors:
                for _ in range(ACTORS):
                    actors.create_task(found.actor(events // ACTORS))
            async with asyncio.timeout(ANSWER_S):
                await device.close()
    finally:
        await db.close()
    seen = await asyncio.to_thread(lambda: site.violations.read_text() if site.violations.exists() else "")
    return found, seen


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses that only cost time here: between memory samples, and after a failed start."""
    monkeypatch.setattr(memory, "SAMPLE_S", 0.01)
    monkeypatch.setattr(transitions, "backoff_s", lambda failures: 0.02 * failures)


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_g1_a_storm_of_events_never_makes_two_owners_and_leaves_nobody_waiting(tmp_path: Path) -> None:
    found, seen = await storm(tmp_path, EVENTS)
    assert seen == ""
    assert all(trainer.settled == 1 for trainer in found.trainers), "each job is settled once"
    counts = found.counts
    assert counts["answered"] + counts["gave up"] + counts["refused"] == counts["ask"], counts
    assert counts["answered"] > counts["ask"] / 4 and counts["trained"] > counts["train"] / 4, counts
    assert list((tmp_path / "run" / "guardians").iterdir()) == []


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_g1_negative_control_a_guardian_that_loses_daemons_is_seen_by_the_witness(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the subreaper a stubborn server's daemon lives on, and the next server finds it there."""
    broken = tmp_path / "broken"
    broken.mkdir()
    source = Path(guardian.__file__).read_text()
    (broken / "guardian.py").write_text(source.replace("    prctl(PR_SET_CHILD_SUBREAPER, 1)\n", ""))
    monkeypatch.setattr(guarded, "PROGRAM", broken)
    monkeypatch.setattr(witnessed_servers, "KINDS", ("stubborn",))
    home = tmp_path / "home"
    home.mkdir()
    try:
        found, seen = await storm(home, 60)
    finally:
        await asyncio.to_thread(end_strays, home)
    for child in found.site.children:
        assert child.stdout is not None
        await child.stdout.read()  # the daemons had it open
    assert "began while another one was there" in seen


def end_strays(home: Path) -> None:
    """The daemons that the broken variant left."""
    mark = os.fsencode(home)
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            if int(name) != os.getpid() and mark in Path(f"/proc/{name}/cmdline").read_bytes():
                os.kill(int(name), signal.SIGKILL)
