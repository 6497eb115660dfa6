"""★C5: the registry against a dict, by a Hypothesis state machine: publish, archive, move, score, query, lineage, gc,
aliases, rollback, undo, redo, reopen, and reopen after a crash in the middle of a publish.

RUNE_C5=EXAMPLES:STEPS sets other numbers; 500:50 are those of the promise.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from support.registry_house import House, open_house

from registry.errors import AdapterAlreadyExists, AdapterNotFound, RegistryError, TransitionRefused
from registry.models import Adapter, NewAdapter, Source, Tier
from registry.registry import AdapterQuery
from registry.samples import write_sample

EXAMPLES, STEPS = map(int, os.environ.get("RUNE_C5", "500:50").split(":"))
NAMES = st.sampled_from([f"a{number}" for number in range(3)])
SEEDS_UP_TO = 4
SEEDS = st.integers(0, SEEDS_UP_TO - 1)
TASKS = st.sampled_from(["sort", "parse"])
TIERS = list(Tier)
WAY = {"promote": 1, "demote": -1}
T = TypeVar("T")
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"""fsync costs nothing there; a crash of this file is an exception, so no page is ever lost."""


@dataclass(frozen=True)
class Modelled:
    """What a dict knows of an adapter."""

    seed: int
    task_type: str
    parents: tuple[str, ...]
    generation: int
    tier: Tier = Tier.TASK
    fitness: float | None = None
    archived: bool = False
    scores: int = 0


@dataclass(frozen=True)
class Step:
    """One change of the model, and what was there before it."""

    name: str
    """Of the adapter; empty for a rollback."""
    before: Modelled | None
    after: Modelled | None
    aliases_before: dict[str, str]
    aliases_after: dict[str, str]


class Crash(BaseException):
    """The process ends here, as far as the registry can tell."""


class RegistryMachine(RuleBasedStateMachine):
    """Every step is done to both; they must answer alike, and look alike after it."""

    samples: Path

    def __init__(self) -> None:
        super().__init__()
        self.model: dict[str, Modelled] = {}
        self.aliases: dict[str, str] = {}
        self.done: list[Step] = []
        self.undone: list[Step] = []
        self.loop = asyncio.new_event_loop()
        self.root = Path(tempfile.mkdtemp(prefix="c5-", dir=MEMORY))
        self.stack = AsyncExitStack()

    def run(self, work: Awaitable[T]) -> T:
        return self.loop.run_until_complete(work)  # type: ignore[arg-type]  # coroutines

    @initialize()
    def open(self) -> None:
        self.house: House = self.run(self.stack.enter_async_context(open_house(self.root)))
        self.plant()

    def plant(self) -> None:
        """Where a negative control puts its bug."""

    def teardown(self) -> None:
        self.run(self.stack.aclose())
        self.run(self.loop.shutdown_default_executor())
        self.loop.close()
        shutil.rmtree(self.root)

    def expect(self, work: Awaitable[T], error: type[RegistryError] | None) -> T | None:
        """The registry must do it, or refuse it with exactly this error."""
        try:
            done = self.run(work)
        except RegistryError as raised:
            assert type(raised) is error, f"{type(raised).__name__}: {raised}"
            return None
        assert error is None, f"it was done, and should have been {error}"
        return done

    # --- steps ---

    @rule(name=NAMES, seed=SEEDS, task=TASKS, parents=st.lists(NAMES, max_size=2, unique=True))
    def publish(self, name: str, seed: int, task: str, parents: list[str]) -> None:
        parents = [parent for parent in parents if parent != name]
        error: type[RegistryError] | None = None
        if name in self.model:
            error = AdapterAlreadyExists
        elif any(parent not in self.model for parent in parents):
            error = AdapterNotFound
        new = NewAdapter(id=name, task_type=task, source=Source.QLORA, parent_ids=tuple(parents))
        self.expect(self.house.registry.publish(self.samples / str(seed), new), error)
        if error is None:
            self.note(name, seed, task, parents)

    def note(self, name: str, seed: int, task: str, parents: list[str]) -> None:
        generation = max((self.model[parent].generation + 1 for parent in parents), default=0)
        new = Modelled(seed, task, tuple(parents), generation)
        self.commit(name, new, before=replace(new, archived=True))

    def commit(
        self, name: str, after: Modelled | None, aliases: dict[str, str] | None = None, before: Modelled | None = None
    ) -> None:
        """A change was done; `before` where undo leads elsewhere than back."""
        aliases = self.aliases if aliases is None else aliases
        self.done.append(Step(name, before or self.model.get(name), after, self.aliases, aliases))
        self.undone.clear()
        self.lay(name, after, aliases)

    def lay(self, name: str, known: Modelled | None, aliases: dict[str, str]) -> None:
        if known is not None:
            self.model[name] = known
        self.aliases = aliases

    @rule(name=NAMES, seed=SEEDS, crash=st.booleans())
    def reopen(self, name: str, seed: int, crash: bool) -> None:
        if crash:
            self.crash_in_publish(name, seed)
        self.run(self.stack.aclose())
        self.open()
        self.run(self.house.registry.recover())

    def crash_in_publish(self, name: str, seed: int) -> None:
        """The files are in place and the row's transaction never ends: as killed after the rename."""

        def die(*_: object) -> None:
            raise Crash

        new = NewAdapter(id=name, task_type="sort", source=Source.QLORA)
        try:
            self.run(self.house.registry.publish(self.samples / str(seed), new, then=die))
        except Crash:
            assert name not in self.model
        except AdapterAlreadyExists:
            assert name in self.model

    # Few rules with a choice inside: Hypothesis switches whole rules off, and long chains need most of them on.
    @rule(name=NAMES, what=st.sampled_from(["archive", "restore", "promote", "demote"]))
    def change(self, name: str, what: str) -> None:
        known = self.model.get(name)
        self.expect(getattr(self.house.registry, what)(name), self.refusal(known, what))
        if known is None or self.refusal(known, what):
            return
        match what:
            case "archive" | "restore":
                if known.archived != (what == "archive"):
                    kept = {alias: target for alias, target in self.aliases.items() if target != name}
                    self.commit(name, replace(known, archived=what == "archive"), kept)
            case "promote":
                self.commit(name, replace(known, tier=TIERS[known.tier.level + 1]), self.crowned(name, known.task_type))
            case _:
                self.commit(name, replace(known, tier=TIERS[known.tier.level - 1]))

    def crowned(self, name: str, task: str) -> dict[str, str]:
        champion = self.aliases.get(f"{task}@champion")
        if champion == name:
            return self.aliases
        return present(self.aliases | {f"{task}@champion": name, f"{task}@previous": champion})

    @rule(task=TASKS, what=st.sampled_from(["rollback", "undo", "undo", "redo"]))
    def step(self, task: str, what: str) -> None:
        match what:
            case "rollback":
                champion, previous = (self.aliases.get(f"{task}@{role}") for role in ("champion", "previous"))
                error = None if champion or previous else TransitionRefused
                self.expect(self.house.registry.rollback(task), error)
                if error is None:
                    turned = {f"{task}@champion": previous, f"{task}@previous": champion}
                    self.commit("", None, present(self.aliases | turned))
            case "undo":
                self.expect(self.house.registry.undo(), None if self.done else TransitionRefused)
                if self.done:
                    self.undone.append(step := self.done.pop())
                    self.lay(step.name, step.before, step.aliases_before)
            case _:
                self.expect(self.house.registry.redo(), None if self.undone else TransitionRefused)
                if self.undone:
                    self.done.append(step := self.undone.pop())
                    self.lay(step.name, step.after, step.aliases_after)

    def refusal(self, known: Modelled | None, what: str) -> type[RegistryError] | None:
        if known is None:
            return AdapterNotFound
        if what in WAY and (known.archived or not 0 <= known.tier.level + WAY[what] < len(TIERS)):
            return TransitionRefused
        return None

    @rule(name=NAMES, fitness=st.floats(0, 1))
    def score(self, name: str, fitness: float) -> None:
        self.expect(self.house.registry.update_fitness(name, fitness), None if name in self.model else AdapterNotFound)
        if known := self.model.get(name):
            self.commit(name, replace(known, fitness=fitness, scores=known.scores + 1))

    @rule()
    def collect(self) -> None:
        self.run(self.house.registry.gc(grace_seconds=-1))

    @rule(name=NAMES, task=TASKS, archived=st.sampled_from([None, True, False]), size=st.integers(1, 3))
    def ask(self, name: str, task: str, archived: bool | None, size: int) -> None:
        self.ask_for_lineage(name)
        self.ask_for_pages(task, archived, size)
        self.ask_for_the_best(task, size)

    def ask_for_lineage(self, name: str) -> None:
        if name not in self.model:
            return
        expected = [name]
        while parents := self.model[expected[-1]].parents:
            expected.append(parents[0])
        assert [adapter.id for adapter in self.run(self.house.registry.get_lineage(name))] == expected
        assert len(self.run(self.house.registry.get_evaluations(name))) == self.model[name].scores

    def ask_for_pages(self, task: str, archived: bool | None, limit: int) -> None:
        expected = {
            name for name, known in self.model.items() if known.task_type == task and archived in (None, known.archived)
        }
        found: list[str] = []
        query = AdapterQuery(task_type=task, archived=archived, limit=limit)
        while True:
            page = self.run(self.house.registry.list_all(query))
            found += [adapter.id for adapter in page.items]
            if page.next is None:
                break
            query = replace(query, after=page.next)
        assert sorted(found) == sorted(expected)

    def ask_for_the_best(self, task: str, top: int) -> None:
        best = self.run(self.house.registry.query_best_for_task(task, top))
        scores = sorted(
            (
                known.fitness
                for known in self.model.values()
                if known.task_type == task and known.fitness is not None and not known.archived
            ),
            reverse=True,
        )
        assert [adapter.fitness_score for adapter in best if adapter.fitness_score is not None] == scores[:top]

    # --- what holds after each ---

    @invariant()
    def they_look_alike(self) -> None:
        page = self.run(self.house.registry.list_all(AdapterQuery(archived=None, limit=100)))
        assert {adapter.id: seen(adapter) for adapter in page.items} == {
            name: (known.task_type, known.parents, known.generation, known.tier, known.fitness, known.archived)
            for name, known in self.model.items()
        }
        assert self.run(self.house.registry.get_aliases()) == self.aliases
        directories = {path.name for path in (self.root / "adapters").glob("*") if len(path.name) == 64}
        assert {adapter.digest for adapter in page.items} <= directories
        by_seed = {self.model[adapter.id].seed: adapter.digest for adapter in page.items}
        assert all(by_seed[self.model[adapter.id].seed] == adapter.digest for adapter in page.items)


def present(aliases: dict[str, str | None]) -> dict[str, str]:
    return {alias: target for alias, target in aliases.items() if target is not None}


def seen(adapter: Adapter) -> tuple[object, ...]:
    return (
        adapter.task_type,
        adapter.parent_ids,
        adapter.generation,
        adapter.tier,
        adapter.fitness_score,
        adapter.is_archived,
    )


def check(machine: type[RegistryMachine], samples: Path, examples: int, steps: int, *, shrink: bool = True) -> None:
    machine.samples = samples
    for seed in range(SEEDS_UP_TO):
        write_sample(samples / str(seed), seed)
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            derandomize=True,
            database=None,
            phases=[Phase.generate, Phase.shrink] if shrink else [Phase.generate],
        ),
    )


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_c5_the_registry_and_a_dict_never_part(tmp_path: Path) -> None:
    check(RegistryMachine, tmp_path / "samples", EXAMPLES, STEPS)


def forgets_to_restore(machine: RegistryMachine) -> None:
    """Restoring changes nothing."""
    machine.house.registry.restore = machine.house.registry.get  # type: ignore[method-assign]  # the planted bug


def collects_what_is_archived(machine: RegistryMachine) -> None:
    """gc takes the files of archived adapters too."""
    registry = machine.house.registry

    async def greedy(grace_seconds: float) -> list[str]:
        page = await registry.list_all(AdapterQuery(archived=True, limit=100))
        for adapter in page.items:
            await asyncio.to_thread(shutil.rmtree, machine.root / "adapters" / adapter.digest, True)
        return []

    registry.gc = greedy  # type: ignore[method-assign]  # the planted bug


def promotes_what_is_archived(machine: RegistryMachine) -> None:
    """The tier moves although the adapter is archived."""
    registry = machine.house.registry
    honest = registry.promote

    async def careless(name: str) -> Adapter:
        await registry.restore(name)
        return await honest(name)

    registry.promote = careless  # type: ignore[assignment,method-assign]  # the planted bug


def undoes_the_tier_alone(machine: RegistryMachine) -> None:
    """The champion stays although its promotion is taken back."""
    registry = machine.house.registry
    honest = registry.undo

    async def careless() -> object:
        aliases = await registry.get_aliases()
        done = await honest()
        for alias, target in aliases.items():
            await machine.house.db.write(
                lambda tx, row=(alias, target): (
                    tx.execute(  # type: ignore[misc]  # the loop's values, bound
                        "INSERT OR REPLACE INTO adapter_aliases VALUES (?, ?, 'now')", row
                    ).rowcount
                )
            )
        return done

    registry.undo = careless  # type: ignore[assignment,method-assign]  # the planted bug


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "bug", [forgets_to_restore, collects_what_is_archived, promotes_what_is_archived, undoes_the_tier_alone]
)
def test_c5_negative_control_a_planted_bug_is_found(tmp_path: Path, bug: Callable[[RegistryMachine], None]) -> None:
    class Broken(RegistryMachine):
        def plant(self) -> None:
            bug(self)

    with pytest.raises((AssertionError, RegistryError)):
        check(Broken, tmp_path / "samples", 500, 40, shrink=False)
