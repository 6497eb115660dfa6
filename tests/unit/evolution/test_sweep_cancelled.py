"""A sweep that is cancelled anywhere leaves no half-published adapter, and another finishes what it began (A61)."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from pathlib import Path

import pytest
from support.evolution_house import TASK_TYPE, World, open_world, tell_nobody

from engine.evolution.records import Outcome
from engine.evolution.sweep import sweep
from registry.db import Transaction
from registry.journal import Recorder

ROUNDS = 300
BATCHES = 12
"""So that none of these tests is long on a machine that is busy; a round is a copy of one prepared home."""
FINISHED = 3
"""Every so many rounds another sweep goes on where the cancelled one stopped."""


class Tripwire:
    """Cancels a task at its n-th passing: at a checkpoint of the stand-ins, or inside a transaction of the database."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.passed = 0
        self.task: asyncio.Task[object] | None = None
        self._loop = asyncio.get_running_loop()

    async def checkpoint(self) -> None:
        self._pass(lambda cancel: cancel())
        await asyncio.sleep(0)

    def in_transaction(self) -> None:
        """Called in the writer's thread, with the transaction open."""
        self._pass(lambda cancel: self._loop.call_soon_threadsafe(cancel))

    def _pass(self, do: Callable[[Callable[[], object]], object]) -> None:
        self.passed += 1
        if self.passed == self.at and self.task is not None:
            do(self.task.cancel)


class Tripping:
    """A recorder that passes a tripwire before each event."""

    def __init__(self, recorder: Recorder, wire: Tripwire) -> None:
        self._recorder = recorder
        self._wire = wire

    def record(
        self,
        tx: Transaction,
        *,
        kind: str,
        subject: str,
        payload: Mapping[str, object],
        session_id: str | None = None,
    ) -> None:
        self._wire.in_transaction()
        self._recorder.record(tx, kind=kind, subject=subject, payload=payload, session_id=session_id)


def wired(world: World, wire: Tripwire) -> None:
    """Have every step of a sweep pass the wire."""
    world.exam.checkpoint = world.nursery.checkpoint = world.school.checkpoint = wire.checkpoint
    for owner in (world.registry._changes, world.records):  # pyright: ignore[reportPrivateUsage]  # nobody else can
        name = "recorder" if hasattr(owner, "recorder") else "_recorder"
        object.__setattr__(owner, name, Tripping(getattr(owner, name), wire))


async def cancelled_sweep(world: World, at: int) -> tuple[bool, int]:
    """Whether it was cancelled, and how often the wire was passed."""
    wire = Tripwire(at)
    wired(world, wire)
    request = world.request()
    wire.task = asyncio.ensure_future(sweep(world.parts, "first", request, tell_nobody))
    try:
        await wire.task
    except asyncio.CancelledError:
        return True, wire.passed
    return False, wire.passed


async def check_whole(world: World) -> None:
    """Everything that is listed is whole, and nothing is served that nobody looked at."""
    merges = {merge.child_id: merge for merge in await world.records.merges(TASK_TYPE)}
    controls = {control.adapter_id for control in await world.records.controls()}
    known = await world.registry.query_by_task_type(TASK_TYPE)
    named = set((await world.registry.get_aliases()).values())
    for adapter in known:
        assert await world.registry.verify(adapter.id), f"{adapter.id} is listed without its files"
        born = adapter.id in merges
        assert born == (len(adapter.parent_ids) > 1), f"{adapter.id}: a child and its merge are one"
        if adapter.id in controls:
            assert adapter.fitness_score is None and adapter.id not in named
        if adapter.id in named:
            assert adapter.fitness_score is not None, f"{adapter.id} is routed to and was never measured"
    assert len({merge.parents for merge in merges.values()}) == len(merges)
    assert merges.keys() <= {adapter.id for adapter in known}
    left = await asyncio.to_thread(lambda: list(world.nursery.root.glob("*")))
    assert not left, f"half-made files stay behind: {left}"


async def check_finished(world: World) -> None:
    """The end that an undisturbed sweep comes to; a second one may have bred on from a child that was done."""
    merges = await world.records.merges(TASK_TYPE)
    assert merges and merges[0].outcome is Outcome.PROMOTED
    assert all(merge.outcome is not None for merge in merges), "no child is left without a gate"
    champion = (await world.registry.get_champions(TASK_TYPE)).champion
    assert champion in [merge.child_id for merge in merges if merge.outcome is Outcome.PROMOTED]
    assert await world.in_use() == sorted(["a0", "a1", "a2", "a3", "a4", *(merge.child_id for merge in merges)])
    assert all(control.ended for control in await world.records.controls())


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with five adapters that nobody measured yet."""
    home = tmp_path_factory.mktemp("prepared") / "home"

    async def prepare() -> None:
        async with open_world(home) as world:
            await world.population(0.9, 0.8, 0.7, 0.65, 0.6)

    asyncio.run(prepare())
    return home


@pytest.fixture
async def places(prepared: Path, tmp_path: Path) -> AsyncIterator[Callable[[int], Path]]:
    def place(number: int) -> Path:
        copy = tmp_path / str(number)
        shutil.copytree(prepared, copy)
        return copy

    yield place


@pytest.mark.parametrize("batch", range(BATCHES))
async def test_three_hundred_seeded_cancellations_leave_nothing_half_published(
    places: Callable[[int], Path], batch: int
) -> None:
    cancelled = 0
    async with open_world(await asyncio.to_thread(places, -1), seed=4) as world:
        world.skill_of_population()
        _, steps = await cancelled_sweep(world, at=0)
        await check_finished(world)
    dice = random.Random(batch)
    for number in range(ROUNDS // BATCHES):
        async with open_world(await asyncio.to_thread(places, number), seed=5) as world:
            world.skill_of_population()
            hit, _ = await cancelled_sweep(world, at=dice.randrange(1, steps + 1))
            cancelled += hit
            await check_whole(world)
            world.undisturbed()
            if number % FINISHED:
                continue
            # Its own operation goes on, or somebody else's sweep finds what it left: both must come to the same end.
            with suppress(asyncio.CancelledError):
                await sweep(world.parts, dice.choice(("first", "second")), world.request(), tell_nobody)
            await check_whole(world)
            await check_finished(world)
    assert cancelled >= ROUNDS // BATCHES * 0.8, f"only {cancelled} were hit: the wire is not where the work is"


async def test_a_publication_outside_its_transaction_would_be_caught(places: Callable[[int], Path]) -> None:
    """The negative control: a child that is listed without its merge is what the check is there to see."""
    async with open_world(await asyncio.to_thread(places, 0), seed=4) as world:
        world.skill_of_population()
        await world.sweep("first")
        await world.db.write(lambda tx: tx.execute("DELETE FROM evolution_merges"))
        with pytest.raises(AssertionError, match="a child and its merge are one"):
            await check_whole(world)
