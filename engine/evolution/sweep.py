"""One sweep: every task type's population is scored, pruned, bred and gated, with controls.

    population ──score──► plan (kept) ──prune──► archive ──mate──► merge, publish ──► child without fitness
                                                                                        │ measured on `selection`
          kept ◄── a control does as well, or the evidence refuses it ──────────────────┤ beside controls
          challenger ◄── not proven ────────────────────────────────────────────────────┤ on `gate`, fresh inputs
          promoted ◄── proven ──────────────────────────────────────────────────────────┘

An adapter must be published to be served and so to be measured. What keeps an unmeasured child out of use is that it
has no fitness: such an adapter is never picked for a task, never a parent, never an alias's target. It gets its
fitness when its gate was looked at, in whatever way that ended, and only then may it be promoted.

Each step is one transaction of the registry or of `records`, is an event, and can be undone by the registry's history:
archiving, publishing (by archiving), scores, aliases, promotions. Cancelled anywhere, a sweep leaves what it did whole;
run again it finds that done and goes on, and another sweep finishes a child that it finds ungated. A sweep that
promotes nothing is a result, and says why.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from engine.api_evolution import (
    ControlResult,
    Evidence,
    EvidenceRequest,
    EvolveRequest,
    MergeMethod,
    MergeRequest,
    SweepSummary,
    TypeSummary,
    Verdict,
)
from engine.api_learning import Operation, RateRecord
from engine.config import EvolutionSection
from engine.errors import InputError, NotFoundError, RuneError
from engine.evolution.controls import Controls, Family, objections
from engine.evolution.evidence import Evidences, fresh_seed
from engine.evolution.measure import Examiner, Steps
from engine.evolution.merging.handler import PrepareLearning
from engine.evolution.population import Population, read_population
from engine.evolution.pruning import in_use
from engine.evolution.records import Merge, Outcome, Plan, Records
from engine.evolution.scoring import Scoring
from engine.evolution.seams import Breeding
from engine.evolution.triggers import Individual, Mating, Policy, counts, mate, prune
from engine.operations import Progress
from registry.clock import Clock
from registry.db import Transaction
from registry.errors import RegistryError, TransitionRefused
from registry.models import Adapter, NewAdapter, Source, Tier
from registry.registry import Registry

MAX_TYPE_CHARS = 60
"""Of a task type in a child's id, which may have 100."""


@dataclass(frozen=True)
class Parts:
    """What a sweep works with."""

    section: EvolutionSection
    registry: Registry
    records: Records
    examiner: Examiner
    scoring: Scoring
    breeding: Breeding
    prepare: PrepareLearning
    controls: Controls
    evidences: Evidences
    clock: Clock


@dataclass(frozen=True)
class Gated:
    """What became of a child."""

    child: str
    rate: RateRecord | None
    controls: tuple[ControlResult, ...]
    outcome: Outcome | None
    reasons: tuple[str, ...]


class EvolveHandler:
    """Operations of the kind `evolve`. Implements `engine.operations.Handler`."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def run(self, operation: Operation, progress: Progress) -> SweepSummary:
        """See `Handler`."""
        request = EvolveRequest.model_validate(operation.request)
        return await sweep(self._parts, operation.id, request, progress)


async def sweep(parts: Parts, name: str, request: EvolveRequest, progress: Progress) -> SweepSummary:
    """Sweep every task type that the request means; what an earlier attempt of that name finished stands.

    Raises:
        InputError: the wanted parents are not members of one task type.
        RuneError, RegistryError: the model server, a suite or the database fails.
    """
    started = parts.clock.monotonic()
    await parts.controls.clear(name)
    steps = Steps(progress)
    done: dict[str, TypeSummary] = {}
    generation = 0
    for task_type in await _task_types(parts.registry, request):
        done[task_type] = await TypeSweep(parts, name, task_type, request, steps).run()
        population = await read_population(parts.registry, parts.records, task_type)
        generation = max(generation, population.generation)
    return SweepSummary(task_types=done, generation=generation, seconds=parts.clock.monotonic() - started)


async def _task_types(registry: Registry, request: EvolveRequest) -> list[str]:
    if request.adapter_ids:
        wanted = {(await registry.get(adapter_id)).task_type for adapter_id in request.adapter_ids}
        if len(wanted) > 1 or (request.task_type is not None and request.task_type not in wanted):
            raise InputError(f"The parents are of the task types {', '.join(sorted(wanted))}: name those of one.")
        return sorted(wanted)
    return await registry.get_task_types() if request.task_type is None else [request.task_type]


class TypeSweep:
    """One task type's part of a sweep."""

    def __init__(self, parts: Parts, sweep: str, task_type: str, request: EvolveRequest, steps: Steps) -> None:
        self._parts = parts
        self._sweep = sweep
        self._task_type = task_type
        self._request = request
        self._steps = steps
        self._suite = request.suite or parts.section.suites.get(task_type)
        self._reasons: list[str] = []

    async def run(self) -> TypeSummary:
        """Do it, or what is left of it."""
        plan = await self._parts.records.plan(self._sweep, self._task_type)
        if plan is not None and plan.summary is not None:
            return plan.summary
        population = await self._read()
        if plan is None and not population.live:
            return TypeSummary(merged=0, pruned=0, active=0, reasons=("There is no adapter in use.",))
        if self._suite is None:
            self._reasons.append(f"No suite decides about {self._task_type}: nothing is measured and nothing merged.")
        else:
            await self._score(population, self._suite)
            population = await self._read()
        plan = plan or await self._plan(population)
        for adapter_id in plan.pruned:
            await self._parts.registry.archive(adapter_id)
        merge, made = await self._merge()
        gated = None if merge is None else await self._gate(merge)
        return await self._summarise(plan, gated, made=made)

    async def _score(self, population: Population, suite: str) -> None:
        parts = self._parts
        try:
            self._reasons += await parts.scoring.score(population.members, suite, self._seed, self._steps)
        except (InputError, NotFoundError) as error:  # a suite without a `selection` split, or none of that name
            self._reasons.append(f"{suite} cannot decide about {self._task_type}: {error} Nothing is merged.")
            self._suite = None

    async def _read(self) -> Population:
        return await read_population(self._parts.registry, self._parts.records, self._task_type)

    @property
    def _seed(self) -> int:
        return self._request.seed

    # --- pruning ---

    async def _plan(self, population: Population) -> Plan:
        known = await self._parts.registry.query_by_task_type(self._task_type)
        ancestry = {adapter.id: adapter.parent_ids for adapter in known}
        aliases = set((await self._parts.registry.get_aliases()).values())
        individuals = [await self._individual(adapter) for adapter in population.live]
        pruning = prune(individuals, self._policy(), ancestry, aliases)
        self._reasons += pruning.reasons
        await self._parts.records.put_plan(self._sweep, self._task_type, len(population.live), pruning.archive)
        return Plan(len(population.live), pruning.archive, None)

    def _policy(self) -> Policy:
        section = self._parts.section
        return Policy(section.merge_at, section.parents, section.prune_below, section.min_evaluations)

    async def _individual(self, adapter: Adapter) -> Individual:
        evaluations = len(await self._parts.registry.get_evaluations(adapter.id))
        return Individual(
            id=adapter.id,
            base_model=adapter.base_model_id,
            fitness=adapter.fitness_score,
            evaluations=evaluations,
            parents=adapter.parent_ids,
            generation=adapter.generation,
        )

    # --- breeding ---

    async def _merge(self) -> tuple[Merge | None, bool]:
        """The child to look at, if there is one, and whether this sweep made it."""
        known = await self._parts.records.merges(self._task_type)
        ours = next((merge for merge in known if merge.sweep == self._sweep), None)
        if ours is not None:  # an attempt before this one got so far
            return ours, True
        population = await self._read()
        if self._suite is None:
            return None, False
        if population.ungated and not self._request.adapter_ids:
            left = population.ungated[0]
            self._reasons.append(f"{left.child_id} was left without a gate by {left.sweep}; it is looked at now.")
            return left, False
        mating = await self._mating(population)
        self._reasons.append(mating.reason)
        return (await self._breed(mating) if mating.parents else None), bool(mating.parents)

    async def _mating(self, population: Population) -> Mating:
        individuals = [await self._individual(adapter) for adapter in population.members]
        policy = self._policy()
        if wanted := self._request.adapter_ids:
            individuals = [one for one in individuals if one.id in wanted]
            policy = replace(policy, merge_at=len(wanted), parents=len(wanted))
        return mate(individuals, policy, population.merged)

    async def _breed(self, mating: Mating) -> Merge | None:
        parts = self._parts
        self._steps.expect(1)
        try:
            parents = [await parts.registry.resolve_for_load(name) for name in mating.parents]
            generation = 1 + max(parent.adapter.generation for parent in parents)
            child_id = f"{self._task_type[:MAX_TYPE_CHARS]}-g{generation}-{parts.clock.hex_id(8)}"
            section = parts.section
            request = MergeRequest(
                adapters=mating.parents,
                method=section.method,
                adapter_id=child_id,
                density=section.density,
                seed=self._seed,
                suite=self._suite,
            )
            tell = self._steps.inner("merging")
            learned = request.method is MergeMethod.CAT_LEARNED
            learning = await parts.prepare(request, parents, tell) if learned else None
            async with parts.breeding.merge(request, parents, tell, learning) as made:
                operator = {**request.model_dump(mode="json", exclude={"adapter_id"}), **made.facts}
                merge = Merge(child_id, frozenset(mating.parents), self._sweep, operator, generation, None)
                new = NewAdapter(
                    id=child_id,
                    task_type=self._task_type,
                    source=Source.EVOLUTION,
                    base_model_id=parents[0].adapter.base_model_id,
                    parent_ids=mating.parents,
                )

                def also(tx: Transaction, _adapter: Adapter) -> None:
                    parts.records.add_merge(tx, merge, self._task_type)

                await parts.registry.publish(made.directory, new, gguf=made.gguf, then=also)
        except (RuneError, RegistryError) as error:
            self._reasons.append(f"{', '.join(mating.parents)} were not merged: {error}")
            return None
        await self._steps.did(f"{child_id} merged")
        return merge

    # --- the gate ---

    async def _gate(self, merge: Merge) -> Gated:
        assert self._suite is not None, "a child is made and looked at only where a suite decides"
        parts = self._parts
        child = await parts.registry.get(merge.child_id)
        if not in_use(child):
            return Gated(child.id, None, (), None, (f"{child.id} was taken out of use before it was measured.",))
        report = await parts.examiner.rate(child.id, self._suite, self._seed, self._steps.inner(child.id))
        if report.no_data:
            return Gated(child.id, None, (), None, (f"{child.id}: no answer could be judged; it stays out of use.",))
        members = [one for one in (await self._read()).members if one.id != child.id]
        found = await parts.scoring.of_child(child, report, members)
        controls = await self._controls(child, merge)
        against = objections(report.pass_at_1, controls)
        evidence = None if against else await self._evidence(child)
        # From here on it may be picked: everything that speaks against it is known.
        await parts.scoring.write(child, found)
        outcome, reasons = await self._settle(child, against, evidence)
        await parts.records.gated(child.id, outcome)
        return Gated(child.id, report.pass_at_1, controls, outcome, (*against, *reasons))

    async def _controls(self, child: Adapter, merge: Merge) -> tuple[ControlResult, ...]:
        assert self._suite is not None
        known = [await self._parts.registry.get(name) for name in merge.parents]
        parents = sorted(known, key=lambda one: (-(one.fitness_score or 0.0), one.id))
        family = Family(self._sweep, self._suite, self._seed, child, tuple(filter(in_use, parents)))
        found = await self._parts.controls.parents(family, self._steps)
        return (*found, *(await self._parts.controls.made(family, self._steps))) if self._request.controls else found

    async def _evidence(self, child: Adapter) -> Evidence | str:
        """The evidence, or why there is none."""
        assert self._suite is not None
        # The inputs follow from the child's digest: nobody knew them while it was made.
        seed = fresh_seed(self._seed, child.digest)
        request = EvidenceRequest(adapter=child.id, suite=self._suite, to_tier=Tier.DOMAIN.value, seed=seed)
        self._steps.expect(1)
        try:
            found = await self._parts.evidences.gather(request, self._steps.inner("evidence"))
        except InputError as error:
            return str(error)
        await self._steps.did(f"evidence: {found.verdict.value}")
        return found

    async def _settle(
        self, child: Adapter, against: tuple[str, ...], evidence: Evidence | str | None
    ) -> tuple[Outcome, tuple[str, ...]]:
        if against:
            return Outcome.KEPT, (f"{child.id} is kept and not promoted.",)
        if not isinstance(evidence, Evidence):
            return Outcome.KEPT, (f"{child.id} is kept and not promoted: {evidence}",)
        try:
            match evidence.verdict:
                case Verdict.PROVEN:
                    return await self._promote(child, evidence)
                case Verdict.NOT_PROVEN:
                    return await self._challenge(child, evidence.reasons)
                case Verdict.REFUSED:
                    return Outcome.KEPT, (f"{child.id} is kept and not promoted.", *evidence.reasons)
        except TransitionRefused as error:  # somebody moved the aliases or the child while this was measured
            return Outcome.KEPT, (f"{child.id} is kept and not promoted: {error}",)

    async def _promote(self, child: Adapter, evidence: Evidence) -> tuple[Outcome, tuple[str, ...]]:
        registry = self._parts.registry
        champions = await registry.get_champions(self._task_type)
        if champions.champion == child.id:  # an attempt before this one got so far
            return Outcome.PROMOTED, (f"{child.id} is champion.",)
        measured = len(await registry.get_evaluations(child.id))
        if measured < self._parts.section.min_evaluations:
            reason = f"{measured} evaluations, {self._parts.section.min_evaluations} are needed"
            return await self._challenge(child, (reason, *evidence.reasons))
        if evidence.incumbent != (champions.champion or "base"):
            return await self._challenge(child, (f"the champion is {champions.champion} by now",))
        reason = f"sweep {self._sweep}: e-value {evidence.e_value:.4g} of {evidence.threshold:g}"
        kept = evidence.model_dump(mode="json")
        await registry.promote(child.id, Tier.DOMAIN, reason, evidence=kept, expected=champions)
        return Outcome.PROMOTED, (f"{child.id} is champion: it beats {evidence.incumbent}.", *evidence.reasons)

    async def _challenge(self, child: Adapter, reasons: tuple[str, ...]) -> tuple[Outcome, tuple[str, ...]]:
        registry = self._parts.registry
        before = (await registry.get_champions(self._task_type)).challenger
        if before != child.id:
            await registry.set_alias(f"{self._task_type}@challenger", child.id, expected=before)
        return Outcome.CHALLENGER, (f"{child.id} is challenger, not promoted.", *reasons)

    # --- the end ---

    async def _summarise(self, plan: Plan, gated: Gated | None, *, made: bool) -> TypeSummary:
        counted = counts(plan.before, len(plan.pruned), int(made and gated is not None))
        summary = TypeSummary(
            merged=counted.merged,
            pruned=counted.pruned,
            active=counted.active,
            child=gated.child if gated else None,
            child_rate=gated.rate if gated else None,
            controls=gated.controls if gated else (),
            promoted=gated is not None and gated.outcome is Outcome.PROMOTED,
            reasons=(*self._reasons, *(gated.reasons if gated else ())),
        )
        await self._parts.records.put_summary(self._sweep, self._task_type, summary)
        return summary
