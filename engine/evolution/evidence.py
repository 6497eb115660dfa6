"""Measures what a promotion rests on; `decide` says what it comes to.

    who must be beaten (champion or base) ──► duel on `gate`, batch by batch, until it is settled
        ──► out of distribution, against the base model ──► anchors, against the base model
        ──► a fixed general text, against the base model ──► (asked for) the incumbent against itself
        ──► what the adapter learned from, against all tasks that were measured ──► decide

A duel may be looked at after every batch because its e-value stays valid however often one looks. It is settled when
the gain is proven and not the work of few templates, when the loss is proven, or when the tasks are used up. With
another seed it is another look, which is kept before it is taken: see `looks`.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from engine.api_evolution import Evidence, EvidenceRequest, TextDrift, TierName
from engine.api_learning import BASE, EvaluationReport, Operation, Split, SuiteTask
from engine.config import Config
from engine.errors import InputError, NotFoundError, RuneError
from engine.evaluation.statistics import MIN_CLUSTERS, Paired, cluster_interval, e_value, tally
from engine.evolution.decide import IN_GROUP, decide
from engine.evolution.elsewhere import OOD_GROUPS
from engine.evolution.findings import Measured, Rules, Versus
from engine.evolution.learned import Learned
from engine.evolution.looks import Look, Looks, budget_share
from engine.evolution.measure import Duel, Examiner, Gate, Steps
from engine.evolution.promotion import incumbent
from engine.evolution.seams import Drifting, SuiteTasks
from engine.evolution.seen import Part, Seen, look
from engine.operations import Progress
from registry.errors import RegistryError
from registry.files import run_to_end
from registry.models import Adapter, Tier
from registry.registry import Registry

DEFAULT_ANCHORS = ("general",)
"""Where a request names none: forty prompts that everybody should still answer. An anchor that is the suite itself
is left out."""
OOD_SUITE = "ood"
"""Measured where the deciding suite has no tasks out of distribution."""
ANCHOR_TASKS = 40
"""Of an anchor: enough to see a loss of a few, and a minute of work."""
OOD_TASKS = 60
NOISE_SEEDS = 3
"""Under which the incumbent is measured again where the noise floor is asked for."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Parts:
    """What evidence is made with."""

    config: Config
    registry: Registry
    suites: SuiteTasks
    examiner: Examiner
    learned: Learned
    looks: Looks
    drifting: Drifting


@dataclass(frozen=True)
class Deciding:
    """The groups of tasks of a gate."""

    groups: tuple[str, ...]
    """Those that decide."""
    ood_groups: tuple[str, ...]
    """Of the others: those out of distribution."""


class EvidenceHandler:
    """Operations of the kind `evidence`. Implements `engine.operations.Handler`."""

    def __init__(self, evidences: Evidences) -> None:
        self._evidences = evidences

    async def run(self, operation: Operation, progress: Progress) -> Evidence:
        """See `Handler`."""
        return await self._evidences.gather(EvidenceRequest.model_validate(operation.request), progress)


class Evidences:
    """Gathers evidence. Changes no adapter: whoever asked decides what is done with it."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        section = parts.config.evaluation
        self._rules = Rules(
            e_threshold=section.e_threshold,
            max_loss=section.max_loss,
            max_perplexity_rise=section.max_perplexity_rise,
            perplexity_tier=section.perplexity_tier,
            resamples=section.bootstrap,
            min_evaluations=parts.config.evolution.min_evaluations,
        )

    async def gather(self, request: EvidenceRequest, progress: Progress) -> Evidence:
        """All of it, with a verdict.

        Raises:
            InputError: the suite, or an anchor, has nothing on its gate.
            NotFoundError: there is no such suite.
            RuneError, RegistryError: it cannot be measured.
        """
        parts = self._parts
        adapter = await parts.registry.get(request.adapter)
        tasks = await self._deciding(request)
        against = incumbent(await parts.registry.get_champions(adapter.task_type), adapter.id)
        anchors = tuple(name for name in request.anchors or DEFAULT_ANCHORS if name != request.suite)
        earlier = await parts.looks.take(Look(adapter.digest, adapter.task_type, request.suite, request.seed))
        gate = self._gate(request, tasks, earlier)
        steps = Steps(progress)
        steps.expect(4 + len(anchors) + request.noise_floor)
        duel = await parts.examiner.duel(adapter.id, against, gate, steps.inner, self._is_settled(gate))
        await steps.did(f"e-value {duel.e_value:.3g}")
        text = await self._text(adapter.id, steps)
        base = await self._base(gate, against, duel, steps)
        outside = await self._out_of_distribution(adapter.id, gate, tasks.ood_groups, steps)
        ood = (outside,) if outside else ()
        kept = [await self._anchor(adapter.id, name, gate.seed, steps) for name in anchors]
        seen, *elsewhere = await self._seen(adapter.id, duel.candidate, *(one.adapter for one in (*ood, *kept)))
        looked = [replace(versus, seen=one) for versus, one in zip((*ood, *kept), elsewhere, strict=True)]
        measured = Measured(
            adapter=adapter.id,
            adapter_digest=adapter.digest,
            incumbent=against,
            to_tier=_target(adapter, request.to_tier),
            candidate=duel.candidate,
            reference=duel.incumbent,
            contamination=seen.contamination,
            base=base,
            ood=looked[0] if ood else None,
            anchors=tuple(looked[len(ood) :]),
            candidates=request.candidates,
            evaluations=len(await parts.registry.get_evaluations(adapter.id)) + 1,
            earlier_looks=earlier,
            text=text if isinstance(text, TextDrift) else None,
            text_unmeasured=text if isinstance(text, str) else "",
            again=await self._again(against, gate, duel, steps) if request.noise_floor else (),
        )
        return await run_to_end(lambda: decide(measured, self._rules))

    async def _deciding(self, request: EvidenceRequest) -> Deciding:
        tasks = await self._tasks(request.suite, request.seed)
        groups = dict.fromkeys(task.group for task in tasks)
        inside = (IN_GROUP,) if IN_GROUP in groups else tuple(name for name in groups if name not in OOD_GROUPS)
        if not inside:
            raise InputError(f"The suite {request.suite} has no task on its gate that could decide.")
        return Deciding(inside, tuple(name for name in groups if name in OOD_GROUPS))

    def _gate(self, request: EvidenceRequest, tasks: Deciding, earlier_looks: int) -> Gate:
        section = self._parts.config.evaluation
        threshold = section.e_threshold * budget_share(request.candidates, earlier_looks)
        return Gate(request.suite, request.seed, tasks.groups, request.limit, section.batch_tasks, threshold)

    async def _tasks(self, suite: str, seed: int) -> tuple[SuiteTask, ...]:
        return await run_to_end(lambda: self._parts.suites.tasks(suite, seed, Split.GATE))

    def _is_settled(self, gate: Gate) -> Settled:
        return Settled(gate.threshold, gate.seed, self._rules.resamples)

    async def _base(self, gate: Gate, against: str, duel: Duel, steps: Steps) -> EvaluationReport | None:
        """What the base model does with the tasks of the duel; None where it was in the duel itself."""
        if against == BASE:
            await steps.did()
            return None
        report = await self._parts.examiner.on_gate(BASE, gate, steps.inner(BASE), limit=duel.taken)
        await steps.did("base measured")
        return report

    async def _out_of_distribution(
        self, adapter: str, gate: Gate, groups: tuple[str, ...], steps: Steps
    ) -> Versus | None:
        suite = gate.suite if groups else OOD_SUITE
        if not groups and not await self._has_gate(suite, gate):
            await steps.did()
            return None
        outside = Gate(suite, gate.seed, groups, OOD_TASKS, OOD_TASKS, gate.threshold)
        return await self._versus_base(f"{suite}, out of distribution", adapter, outside, steps)

    async def _has_gate(self, suite: str, gate: Gate) -> bool:
        try:
            return suite != gate.suite and bool(await self._tasks(suite, gate.seed))
        except NotFoundError:
            return False

    async def _anchor(self, adapter: str, suite: str, seed: int, steps: Steps) -> Versus:
        if not await self._tasks(suite, seed):
            raise InputError(f"The anchor {suite} has no task on its gate.")
        return await self._versus_base(suite, adapter, Gate(suite, seed, (), ANCHOR_TASKS, ANCHOR_TASKS, 1.0), steps)

    async def _seen(self, adapter: str, *reports: EvaluationReport) -> tuple[Seen, ...]:
        """What the adapter learned from of the tasks of each of its reports."""
        learned = await self._parts.learned.documents(adapter)
        parts = [Part(await self._tasks(report.suite, report.seed), report) for report in reports]
        return await run_to_end(lambda: look(parts, learned))

    async def _text(self, adapter: str, steps: Steps) -> TextDrift | str:
        """What it does to a general text, or why that is not known: never a reason to know nothing else."""
        try:
            loadable = await self._parts.registry.resolve_for_load(adapter)
            found = await self._parts.drifting.measure(loadable, steps.inner("general text"))
        except (RuneError, RegistryError) as error:
            log.info("the perplexity of %s is not measured: %s", adapter, error)
            await steps.did("general text not measured")
            return str(error)
        await steps.did(f"general text: perplexity {found.change}")
        return found

    async def _again(self, against: str, gate: Gate, duel: Duel, steps: Steps) -> tuple[EvaluationReport, ...]:
        """The incumbent on the tasks of the duel, under other seeds."""
        found: list[EvaluationReport] = []
        for number in range(NOISE_SEEDS):
            other = replace(gate, seed=fresh_seed(gate.seed, f"noise {number}"))
            tell = steps.inner(f"{against} again, seed {other.seed}")
            found.append(await self._parts.examiner.on_gate(against, other, tell, limit=duel.taken))
        await steps.did("noise floor measured")
        return tuple(found)

    async def _versus_base(self, name: str, adapter: str, gate: Gate, steps: Steps) -> Versus:
        examiner = self._parts.examiner
        ours = await examiner.on_gate(adapter, gate, steps.inner(f"{name}: {adapter}"), limit=gate.limit)
        theirs = await examiner.on_gate(BASE, gate, steps.inner(f"{name}: {BASE}"), limit=gate.limit)
        await steps.did(f"{name} measured")
        return Versus(name, ours, theirs)


@dataclass(frozen=True)
class Settled:
    """Whether more tasks would change what a duel says: called with the pairs so far."""

    threshold: float
    seed: int
    resamples: int

    def __call__(self, pairs: Sequence[Paired]) -> bool:
        counted = tally(pairs)
        if e_value(counted.losses, counted.wins) >= self.threshold:
            return True
        if e_value(counted.wins, counted.losses) < self.threshold:
            return False
        if len({paired.template for paired in pairs}) < MIN_CLUSTERS:
            return False
        _, low, _ = cluster_interval(pairs, self.seed, self.resamples)
        return low > 0


def fresh_seed(seed: int, digest: str) -> int:
    """A seed for hidden inputs that follows from the adapter: nobody can have known them while it was made."""
    return int.from_bytes(hashlib.sha256(f"{seed} {digest}".encode()).digest()[:4], "big") >> 1


def _target(adapter: Adapter, wanted: TierName | None) -> TierName:
    if wanted is not None:
        return wanted
    tiers = list(Tier)
    tier = tiers[min(adapter.tier.level + 1, len(tiers) - 1)]
    names: dict[Tier, TierName] = {Tier.TASK: "task", Tier.DOMAIN: "domain", Tier.PROJECT: "project"}
    return names[tier]
