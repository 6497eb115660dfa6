"""Gives the members of a population their fitness: pass rate on `selection`, diversity by the cosines of deltas.

Both depend on what is around: a new member makes its likes less diverse. So every sweep looks at all members, which
costs little, since no sample is measured twice; only a fitness that changed is written, and is one more evaluation.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from engine.api_learning import EvaluationReport
from engine.errors import AdapterRejectedError
from engine.evolution.fitness import Fitness, fitness
from engine.evolution.measure import Examiner, Steps
from engine.evolution.merging.spec import MergeRefusedError
from engine.evolution.seams import Breeding
from registry.errors import RegistryError
from registry.models import Adapter, LoadableAdapter
from registry.registry import Registry

log = logging.getLogger(__name__)

SAME = 1e-9
"""Two fitnesses nearer than this are one: sums of the same numbers in another order."""


class Scoring:
    """Measures adapters and writes their fitness."""

    def __init__(self, registry: Registry, examiner: Examiner, breeding: Breeding, pass_weight: float) -> None:
        self._registry = registry
        self._examiner = examiner
        self._breeding = breeding
        self._pass_weight = pass_weight

    async def score(self, members: Sequence[Adapter], suite: str, seed: int, steps: Steps) -> list[str]:
        """Give each member its fitness; one sentence for each that cannot have one.

        Raises:
            RuneError: the model server, the suite or the merging child fails: nothing is known of anybody.
        """
        reasons: list[str] = []
        rates: dict[str, float] = {}
        loadable: list[LoadableAdapter] = []
        steps.expect(len(members) + 1)
        for member in members:
            try:
                loadable.append(await self._registry.resolve_for_load(member.id))
                report = await self._examiner.rate(member.id, suite, seed, steps.inner(member.id))
            except (RegistryError, AdapterRejectedError) as error:
                reasons.append(f"{member.id} was not measured: {error}")
            else:
                if report.no_data:
                    reasons.append(f"{member.id} was not measured: no answer of it could be judged.")
                else:
                    rates[member.id] = report.pass_at_1.value
            await steps.did()
        cosines, refused = await self._compared([one for one in loadable if one.adapter.id in rates])
        for name in refused:
            del rates[name]
        await steps.did("diversity measured")
        for member in members:
            if member.id in rates:
                await self._write(member, fitness(rates[member.id], _of(member.id, cosines), self._pass_weight))
        return [*reasons, *refused.values()]

    async def of_child(self, child: Adapter, report: EvaluationReport, members: Sequence[Adapter]) -> Fitness:
        """What the fitness of a child is among those of these that have one; nothing is written.

        Raises:
            RuneError, RegistryError: a file cannot be read.
        """
        compared = [member for member in members if member.fitness_score is not None]
        loadable = [await self._registry.resolve_for_load(adapter.id) for adapter in (*compared, child)]
        cosines = await self._cosines(loadable)
        return fitness(report.pass_at_1.value, _of(child.id, cosines), self._pass_weight)

    async def write(self, adapter: Adapter, found: Fitness) -> None:
        """Give an adapter its fitness; what it has already is not written again."""
        await self._write(await self._registry.get(adapter.id), found)

    async def _compared(self, adapters: list[LoadableAdapter]) -> tuple[Mapping[frozenset[str], float], dict[str, str]]:
        """Cosines, and whose deltas cannot be compared and why: one of a kind that cannot be merged (DoRA, say) must
        not keep all others from having a fitness."""
        try:
            return await self._cosines(adapters), {}
        except (MergeRefusedError, RegistryError) as error:
            log.warning("a population cannot be compared as it is: %s", error)
        refused: dict[str, str] = {}
        for one in adapters:
            try:
                await self._breeding.cosines([one, one])
            except (MergeRefusedError, RegistryError) as error:
                refused[one.adapter.id] = f"{one.adapter.id} has no fitness, since its diversity is unknown: {error}"
        return await self._cosines([one for one in adapters if one.adapter.id not in refused]), refused

    async def _cosines(self, adapters: Sequence[LoadableAdapter]) -> Mapping[frozenset[str], float]:
        return await self._breeding.cosines(adapters) if len(adapters) > 1 else {}

    async def _write(self, adapter: Adapter, found: Fitness) -> None:
        known, rate = adapter.fitness_score, adapter.pass_rate
        if known is None or rate is None or max(abs(known - found.score), abs(rate - found.pass_rate)) > SAME:
            await self._registry.update_fitness(adapter.id, found.score, found.pass_rate)


def _of(adapter_id: str, cosines: Mapping[frozenset[str], float]) -> list[float]:
    return [cosine for pair, cosine in cosines.items() if adapter_id in pair]
