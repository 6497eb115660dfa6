"""What `improve` asks for is known by what it depends on: asked again, it is found, not made anew."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support.evidence_house import evidence
from support.evolution_house import World, open_world, tell_nobody

from engine.api_evolution import Evidence, EvidenceRequest
from engine.api_learning import Operation, OperationKind, RehearsalReport, RehearsalRow, RehearseRequest
from engine.api_models import FINAL_STATES, Event, RunState
from engine.errors import RuneError
from engine.evolution.improve_progress import Rounds, in_minutes
from engine.evolution.improve_steps import EvidenceSteps, RehearsalSteps, until
from engine.evolution.measure import Steps
from engine.jobs import Jobs
from engine.operations import Operations, Progress
from registry.clock import SeededClock

REQUEST = EvidenceRequest(adapter="a", suite="kit", to_tier="task", seed=7)
EVERYDAY = RehearseRequest(suites=("general",))


@dataclass
class Finds:
    """Evidence without measuring anything; fails as often as it is told to."""

    failures: int = 0
    asked: list[Operation] = field(default_factory=list[Operation])

    async def run(self, operation: Operation, progress: Progress) -> Evidence:
        self.asked.append(operation)
        await progress(1, 4, "gate")
        if len(self.asked) <= self.failures:
            raise RuneError("The model server went away.")
        return evidence("a")


@dataclass
class Says:
    """A rehearsal of one row without asking anybody; goes on for ever where it is told to."""

    stays: bool = False
    asked: list[Operation] = field(default_factory=list[Operation])
    begun: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, operation: Operation, progress: Progress) -> RehearsalReport:
        self.asked.append(operation)
        self.begun.set()
        if self.stays:
            await asyncio.Event().wait()
        row = RehearsalRow(prompt="p", completion="c", system="", task="rehearsal/general/1", cut=False)
        return RehearsalReport(
            suites=("general",), seed=0, max_tokens=24, base_model="tiny", backend="scripted", base_proven=True,
            asked=1, empty=0, too_long=0, unanswered=0, tokens=2, seconds=1.0, rows=(row,),
        )  # fmt: skip


@asynccontextmanager
async def rehearsing(world: World, says: Says) -> AsyncGenerator[tuple[RehearsalSteps, Operations]]:
    clock = SeededClock(9)
    operations = Operations(world.db, Jobs(world.journal, clock, owner="one"), world.journal, clock)
    operations.add_handler(OperationKind.REHEARSE, says)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(operations.run())
        yield RehearsalSteps(world.journal, operations), operations
        running.cancel()


@asynccontextmanager
async def steps(world: World, finds: Finds) -> AsyncGenerator[tuple[EvidenceSteps, Operations]]:
    clock = SeededClock(9)
    operations = Operations(world.db, Jobs(world.journal, clock, owner="one"), world.journal, clock)
    operations.add_handler(OperationKind.EVIDENCE, finds)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(operations.run())
        yield EvidenceSteps(world.journal, operations), operations
        running.cancel()


async def test_evidence_is_gathered_once_for_a_request_and_anew_for_another(home: Path) -> None:
    finds = Finds()
    async with open_world(home) as world, steps(world, finds) as (gathering, _):
        first, found = await gathering.gather(REQUEST, tell_nobody)
        again, _ = await gathering.gather(REQUEST, tell_nobody)
        other, _ = await gathering.gather(REQUEST.model_copy(update={"seed": 8}), tell_nobody)
    assert (first, found) == (again, evidence("a"))
    assert other != first
    assert [one.id for one in finds.asked] == [first, other]


async def test_a_request_of_an_older_program_without_the_newest_fields_is_the_same_request(home: Path) -> None:
    """An engine that is updated while a round is under way must not measure again what it has."""
    finds = Finds()
    async with open_world(home) as world, steps(world, finds) as (gathering, _):
        first, _ = await gathering.gather(REQUEST, tell_nobody)
        change = "UPDATE operations SET request = json_remove(request, '$.candidates') WHERE id = ?"
        await world.db.write(lambda tx: tx.execute(change, (first,)) and None)
        again, _ = await gathering.gather(REQUEST, tell_nobody)
    assert (again, len(finds.asked)) == (first, 1)


async def test_what_failed_is_resumed_and_says_why_where_it_fails_again(home: Path) -> None:
    finds = Finds(failures=2)
    async with open_world(home) as world, steps(world, finds) as (gathering, operations):
        for _ in range(2):
            with pytest.raises(RuneError, match="The model server went away"):
                await gathering.gather(REQUEST, tell_nobody)
        first, found = await gathering.gather(REQUEST, tell_nobody)
        assert [one.id for one in await operations.page()] == [first]
    assert found == evidence("a")


# --- rehearsals ---


async def test_it_is_rehearsed_once_since_the_rounds_were_asked_for_and_anew_for_later_ones(home: Path) -> None:
    """What was rehearsed earlier may be of another base model, under the very same request."""
    says = Says()
    async with open_world(home) as world, rehearsing(world, says) as (rehearsal, operations):
        first = await rehearsal.rehearse(EVERYDAY, "", tell_nobody)
        begun = (await operations.get(first)).created_at
        again = await rehearsal.rehearse(EVERYDAY, begun, tell_nobody)
        later = await rehearsal.rehearse(EVERYDAY, begun + "x", tell_nobody)
        other = await rehearsal.rehearse(EVERYDAY.model_copy(update={"seed": 1}), begun, tell_nobody)
    assert again == first
    assert [one.id for one in says.asked] == [first, later, other]
    assert len({first, later, other}) == 3


async def test_a_rehearsal_that_is_not_wanted_any_more_is_cancelled_and_goes_on_when_it_is(home: Path) -> None:
    says = Says(stays=True)
    async with open_world(home) as world, rehearsing(world, says) as (rehearsal, operations):
        asking = asyncio.ensure_future(rehearsal.rehearse(EVERYDAY, "", tell_nobody))
        await says.begun.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        (known,) = await operations.page()

        async def ended(_: Sequence[Event]) -> RunState | None:
            state = (await operations.get(known.id)).state
            return state if state in FINAL_STATES else None

        assert await until(world.journal, 0, (f"operation/{known.id}",), ended) is RunState.CANCELLED
        says.stays = False
        assert await rehearsal.rehearse(EVERYDAY, "", tell_nobody) == known.id


# --- progress ---


async def test_a_step_says_when_it_will_be_done_and_what_was_found_done_does_not_count() -> None:
    """Nor does the wait for the device, which trained nothing."""
    told: list[tuple[int, int, str]] = []
    now = 100.0

    async def tell(done: int, total: int, note: str = "") -> None:
        told.append((done, total, note))

    rounds = Rounds(tell, 2, lambda: now)
    step = rounds.step(2, 34, 67, "training")
    await step(0, 1, "waits for its turn")
    now += 1_000.0
    await step(20, 40, "begins")
    now += 30.0
    await step(30, 40, "step 30 of 40")
    await step(40, 40)
    await rounds.done()
    assert told == [
        (134, 200, "round 2 of 2, training: waits for its turn"),
        (150, 200, "round 2 of 2, training: begins"),
        (158, 200, "round 2 of 2, training: step 30 of 40, 0:30 left of this step"),
        (167, 200, "round 2 of 2, training"),
        (200, 200, "done"),
    ]


async def test_a_long_measurement_gets_on_within_a_step_and_never_back() -> None:
    """A duel is one step of many answers: without this, evidence has no ETA until all of them are there."""
    told: list[tuple[int, int]] = []

    async def tell(done: int, total: int, note: str = "") -> None:
        told.append((done, total))

    steps = Steps(tell)
    steps.expect(2)
    for _ in range(2):  # the adapter and the incumbent, batch by batch
        for name in ("adapter", "base"):
            inner = steps.inner(name)
            await inner(0, 10)
            await inner(10, 10)
    await steps.did()
    await steps.inner("anchor")(5, 10)
    await steps.did()
    done = [one for one, _ in told]
    assert done == sorted(done)
    assert done[1] == 50 and len(set(done[:8])) == 5, "every part of the step moves it"
    assert told[-2:] == [(125, 200), (200, 200)]


def test_minutes() -> None:
    assert [in_minutes(seconds) for seconds in (0.4, 61, 3_725)] == ["0:00", "1:01", "62:05"]
