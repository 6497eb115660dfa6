"""Measures what a promotion rests on; `decide` says what it comes to.

    who must be beaten (champion or base) ──► duel on `gate`, batch by batch, until it is settled
        ──► out of distribution, against the base model ──► anchors, against the base model
        ──► what the adapter learned from, against the tasks that decided ──► decide

A duel may be looked at after every batch because its e-value stays valid however often one looks. It is settled when
the gain is proven and not the work of few templates, when the loss is proven, or when the tasks are used up.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from engine.api_evolution import Evidence, EvidenceRequest, TierName
from engine.api_learning import BASE, EvaluationReport, Operation, Split, SuiteTask
from engine.config import Config
from engine.errors import InputError, NotFoundError
from engine.evaluation.overlap import Document, contamination
from engine.evaluation.statistics import MIN_CLUSTERS, Paired, cluster_interval, e_value, tally
from engine.evolution.decide import IN_GROUP, OOD_GROUPS, Measured, Rules, Versus, decide
from engine.evolution.learned import Learned
from engine.evolution.measure import Duel, Examiner, Gate, Steps
from engine.evolution.promotion import incumbent
from engine.evolution.seams import SuiteTasks
from engine.operations import Progress
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


@dataclass(frozen=True)
class Parts:
    """What evidence is made with."""

    config: Config
    registry: Registry
    suites: SuiteTasks
    examiner: Examiner
    learned: Learned


class EvidenceHandler:
    """Operations of the kind `evidence`. Implements `engine.operations.Handler`."""

    def __init__(self, evidences: Evidences) -> None:
        self._evidences = evidences

    async def run(self, operation: Operation, progress: Progress) -> Evidence:
        """See `Handler`."""
        return await self._evidences.gather(EvidenceRequest.model_validate(operation.request), progress)


class Evidences:
    """Gathers evidence. Changes nothing: whoever asked decides what is done with it."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        section = parts.config.evaluation
        self._rules = Rules(
            section.e_threshold, section.max_loss, section.bootstrap, parts.config.evolution.min_evaluations
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
        gate, deciding, ood_groups = await self._gate(request)
        against = incumbent(await parts.registry.get_champions(adapter.task_type), adapter.id)
        anchors = tuple(name for name in request.anchors or DEFAULT_ANCHORS if name != request.suite)
        steps = Steps(progress)
        steps.expect(3 + len(anchors))
        duel = await parts.examiner.duel(adapter.id, against, gate, steps.inner, self._is_settled(gate))
        await steps.did(f"e-value {duel.e_value:.3g}")
        measured = Measured(
            adapter=adapter.id,
            adapter_digest=adapter.digest,
            incumbent=against,
            to_tier=_target(adapter, request.to_tier),
            candidate=duel.candidate,
            reference=duel.incumbent,
            contamination=contamination(_asked(deciding, duel), await parts.learned.documents(adapter.id)),
            base=await self._base(gate, against, duel, steps),
            ood=await self._out_of_distribution(adapter.id, gate, ood_groups, steps),
            anchors=tuple([await self._anchor(adapter.id, name, gate.seed, steps) for name in anchors]),
            candidates=request.candidates,
            evaluations=len(await parts.registry.get_evaluations(adapter.id)) + 1,
        )
        return await run_to_end(lambda: decide(measured, self._rules))

    async def _gate(self, request: EvidenceRequest) -> tuple[Gate, list[SuiteTask], tuple[str, ...]]:
        """The gate, the tasks that decide in it, and the names of its groups out of distribution."""
        tasks = await self._tasks(request.suite, request.seed)
        groups = dict.fromkeys(task.group for task in tasks)
        inside = (IN_GROUP,) if IN_GROUP in groups else tuple(name for name in groups if name not in OOD_GROUPS)
        deciding = [task for task in tasks if task.group in inside]
        if not deciding:
            raise InputError(f"The suite {request.suite} has no task on its gate that could decide.")
        section = self._parts.config.evaluation
        threshold = section.e_threshold * request.candidates
        gate = Gate(request.suite, request.seed, inside, request.limit, section.batch_tasks, threshold)
        return gate, deciding, tuple(name for name in groups if name in OOD_GROUPS)

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


def _asked(deciding: Sequence[SuiteTask], duel: Duel) -> list[Document]:
    """The tasks that decided, as documents."""
    asked = {paired.task for paired in duel.pairs}
    return [
        Document(task.id, task.prompt, task.reference or "", task.template) for task in deciding if task.id in asked
    ]
