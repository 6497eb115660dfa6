"""Control groups: what a merged child must do better than, or its merge has shown nothing.

Measured on the same tasks as the child: the base model; each parent; a random adapter with the norms of the child's
matrices; the fittest parent trained longer on its own data. Merging random adapters does about as well as merging
trained ones in published work, and training on beats much that is called evolution: a loop without these controls can
only print that it ran.

A control that must be made first is meant, made, measured and archived; it is in no population at any time:

    meant (row) ──► published ──► measured (row) ──► archived ──► ended (row)
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from engine.api_evolution import ControlResult
from engine.api_learning import RateRecord
from engine.errors import NotFoundError, RuneError
from engine.evolution.measure import NO_RATE, Examiner, Steps
from engine.evolution.records import Control, Records
from engine.evolution.seams import Breeding, Schooling
from registry.errors import AdapterNotFound, RegistryError
from registry.models import Adapter, NewAdapter, Source
from registry.registry import Registry

RANDOM = "random of equal norm"
SUFFIX_CHARS = 12
"""Of a digest, in the id of a control: two children never share one."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Family:
    """A child with what it is compared with."""

    sweep: str
    suite: str
    seed: int
    """Of the tasks' hidden inputs; also of the random adapter."""
    child: Adapter
    parents: tuple[Adapter, ...]
    """The fittest first."""

    @property
    def exam(self) -> str:
        """What a control's result is of: with another suite or seed it would be of other tasks than the child's."""
        return f"{self.child.id} {self.suite} {self.seed}"


class Controls:
    """Makes, measures and archives controls."""

    def __init__(
        self, registry: Registry, records: Records, examiner: Examiner, breeding: Breeding, schooling: Schooling
    ) -> None:
        self._registry = registry
        self._records = records
        self._examiner = examiner
        self._breeding = breeding
        self._schooling = schooling

    async def parents(self, family: Family, steps: Steps) -> tuple[ControlResult, ...]:
        """The parents' rates: measured for their fitness already, so they cost nothing.

        Raises:
            RuneError: the model server or the suite fails.
        """
        found: list[ControlResult] = []
        steps.expect(len(family.parents))
        for parent in family.parents:
            found.append(await self._measured(f"parent {parent.id}", parent.id, family, steps))
            await steps.did()
        return tuple(found)

    async def made(self, family: Family, steps: Steps) -> tuple[ControlResult, ...]:
        """Base, a random adapter, and the fittest parent that can be trained on.

        Raises:
            RuneError: the model server or the suite fails.
        """
        steps.expect(3)
        base = await self._measured("base", "base", family, steps)
        await steps.did("base measured")
        random = await self._random(family, steps)
        await steps.did("random adapter measured")
        longer = await self._longer(family, steps)
        await steps.did("parent trained on measured")
        return base, random, longer

    async def clear(self, sweep: str) -> None:
        """End what other sweeps left behind when they were stopped."""
        for control in await self._records.controls(ended=False):
            if control.sweep != sweep:
                await self._end(control)

    async def _measured(self, name: str, adapter_id: str, family: Family, steps: Steps) -> ControlResult:
        report = await self._examiner.rate(adapter_id, family.suite, family.seed, steps.inner(name))
        return ControlResult(name=name, rate=report.pass_at_1)

    async def _random(self, family: Family, steps: Steps) -> ControlResult:
        child = family.child
        adapter_id = f"control-random-{_suffix(family.exam)}"

        async def publish() -> str:
            loadable = await self._registry.resolve_for_load(child.id)
            async with self._breeding.random_like(loadable, family.seed) as made:
                new = NewAdapter(adapter_id, child.task_type, Source.EVOLUTION, child.base_model_id)
                await self._registry.publish(made.directory, new, gguf=made.gguf)
            return ""

        return await self._control(RANDOM, adapter_id, publish, family, steps)

    async def _longer(self, family: Family, steps: Steps) -> ControlResult:
        for parent in family.parents:
            adapter_id = f"control-longer-{_suffix(f'{family.exam} {parent.id}')}"
            try:
                return await self._trained(parent, adapter_id, family, steps)
            except NotFoundError:  # imported or merged: nothing to train it on with; the next may be from a job
                continue
        return ControlResult(name="a parent trained on", rate=NO_RATE, note="no parent was trained in this home")

    async def _trained(self, parent: Adapter, adapter_id: str, family: Family, steps: Steps) -> ControlResult:
        name = f"{parent.id} trained on"
        inner = steps.inner(name)
        return await self._control(
            name, adapter_id, lambda: self._schooling.train_on(parent.id, adapter_id, inner), family, steps
        )

    async def _control(
        self, name: str, adapter_id: str, publish: Callable[[], Awaitable[str]], family: Family, steps: Steps
    ) -> ControlResult:
        control = await self._records.mean_control(adapter_id, family.sweep, name)
        try:
            if control.result is not None:
                return control.result
            note = await self._publish(adapter_id, publish)
            measured = await self._measured(name, adapter_id, family, steps)
            result = measured.model_copy(update={"note": note})
            await self._records.put_control(adapter_id, result)
            return result
        except NotFoundError:
            raise
        except (RuneError, RegistryError) as error:
            log.warning("control %s of %s was not measured: %s", name, family.child.id, error)
            return ControlResult(name=name, rate=NO_RATE, note=f"not measured: {error}")
        finally:
            await self._end(control)

    async def _publish(self, adapter_id: str, publish: Callable[[], Awaitable[str]]) -> str:
        try:
            known = await self._registry.get(adapter_id)
        except AdapterNotFound:
            return await publish()
        if known.is_archived:  # made by an attempt at this sweep that was stopped before it measured
            await self._registry.restore(adapter_id)
        return ""

    async def _end(self, control: Control) -> None:
        if control.ended:
            return
        await self._schooling.give_up(control.adapter_id)
        try:
            await self._registry.archive(control.adapter_id)
        except AdapterNotFound:
            log.info("control %s was never made", control.adapter_id)
        await self._records.end_control(control.adapter_id)


def objections(child: RateRecord, controls: Sequence[ControlResult]) -> tuple[str, ...]:
    """What the controls say against the child: each that does at least as well as it. Pure.

    A control without an outcome says nothing.
    """
    return tuple(
        f"the control '{control.name}' passes {control.rate.passed}/{control.rate.total}, "
        f"and the child {child.passed}/{child.total}: merging has shown nothing"
        for control in controls
        if control.rate.total and control.rate.value >= child.value
    )


def _suffix(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:SUFFIX_CHARS]
