"""The worker queues sweeps, never two at once, none for an empty registry, and stops at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.evolution_house import World, open_world

from engine.api_evolution import SweepSummary
from engine.api_learning import Operation, OperationKind
from engine.api_models import RunState
from engine.evolution.worker import EvolutionWorker
from engine.jobs import Jobs
from engine.operations import Operations, Progress


@dataclass
class Sweeper:
    """Ends a sweep when it is told to."""

    go: asyncio.Event

    async def run(self, operation: Operation, progress: Progress) -> SweepSummary:
        await self.go.wait()
        return SweepSummary(task_types={}, generation=0, seconds=0.0)


class Hours:
    """A pause that lasts until the test says that it is over."""

    def __init__(self) -> None:
        self.waited: list[float] = []
        self.begun = asyncio.Event()
        self.over = asyncio.Event()

    async def __call__(self, seconds: float) -> None:
        self.waited.append(seconds)
        self.begun.set()
        await self.over.wait()
        self.over.clear()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path / "home", "evolution.enabled=true") as world:
        yield world


def operations(world: World, sweeper: Sweeper) -> Operations:
    made = Operations(world.db, Jobs(world.journal, world.parts.clock, "worker"), world.journal, world.parts.clock)
    made.add_handler(OperationKind.EVOLVE, sweeper)
    return made


async def test_an_empty_registry_is_not_swept_and_two_sweeps_never_wait_together(world: World) -> None:
    queue = operations(world, Sweeper(asyncio.Event()))
    worker = EvolutionWorker(queue, world.registry, world.config.evolution)
    assert not await worker.tick()
    await world.adapter("a", 0.5)
    assert await worker.tick() and not await worker.tick()
    assert len(await queue.page(kind=OperationKind.EVOLVE, state=RunState.QUEUED)) == 1


async def test_it_queues_pauses_and_stops_at_once(world: World) -> None:
    await world.adapter("a", 0.5)
    sweeper, hours = Sweeper(asyncio.Event()), Hours()
    queue = operations(world, sweeper)
    worker = EvolutionWorker(queue, world.registry, world.config.evolution, hours)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(worker.run())
        await hours.begun.wait()
        assert hours.waited == [world.config.evolution.every_s] and not running.done()
        running.cancel()
    assert running.cancelled()


async def test_where_it_is_not_wanted_it_does_nothing(tmp_path: Path) -> None:
    async with open_world(tmp_path / "home") as world:
        await world.adapter("a", 0.5)
        queue = operations(world, Sweeper(asyncio.Event()))
        await EvolutionWorker(queue, world.registry, world.config.evolution).run()
        assert not await queue.page()
