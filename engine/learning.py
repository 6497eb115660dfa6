"""What learns: suites, operations, measuring, and the handlers of every kind of operation.

Builds the parts and joins them; each of them owns its own rows. A handler is made here and named for its kind, and
nothing else in the engine knows which module does an operation.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from engine.api_learning import OperationKind
from engine.api_models import SessionCreate, SessionRecord
from engine.assembly import Stores
from engine.config import Config
from engine.device.contracts import LiveAdapter
from engine.device.owner import Device
from engine.evaluation.evaluator import Bench, EvaluateHandler, Evaluator, Prompting
from engine.evaluation.rehearsal import RehearseHandler, Rehearser
from engine.evaluation.reports import Reports
from engine.evaluation.suites.check import CheckHandler
from engine.evaluation.suites.library import Suites
from engine.evaluation.training_benchmark import TrainingBenchmark
from engine.evolution.controls import Controls
from engine.evolution.drift.service import Drift
from engine.evolution.evidence import EvidenceHandler, Evidences
from engine.evolution.evidence import Parts as EvidenceParts
from engine.evolution.improve import ImproveHandler
from engine.evolution.improve import Parts as ImproveParts
from engine.evolution.improve_steps import EvidenceSteps, RehearsalSteps, TrainingSteps
from engine.evolution.learned import Learned
from engine.evolution.looks import Looks
from engine.evolution.measure import Examiner
from engine.evolution.merging.examples import Examples
from engine.evolution.merging.handler import MergeHandler
from engine.evolution.merging.service import Merger
from engine.evolution.promotion import Promotions
from engine.evolution.records import Records
from engine.evolution.schooling import TrainingSchool
from engine.evolution.scoring import Scoring
from engine.evolution.session_runs import Doors, SessionRuns
from engine.evolution.sweep import EvolveHandler
from engine.evolution.sweep import Parts as SweepParts
from engine.evolution.worker import EvolutionWorker
from engine.inference.admitted import AdmittedProvider
from engine.operations import Operations
from engine.training.dataset import DataStore
from engine.training.service import TrainingService
from engine.workshop import Workshop
from registry.clock import Clock

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ground:
    """What learning stands on: the engine's other parts."""

    config: Config
    home: Path
    clock: Clock
    stores: Stores
    device: Device
    workshop: Workshop
    training: TrainingService
    create_session: Callable[[SessionCreate], Awaitable[SessionRecord]]
    cancel_session: Callable[[str], Awaitable[SessionRecord]]
    resume_session: Callable[[str], Awaitable[SessionRecord]]


class Learning:
    """Owner of the learning parts of one engine."""

    def __init__(self, ground: Ground) -> None:
        stores, recorder = ground.stores, ground.stores.journal.source("learning")
        self.suites = Suites(ground.home)
        self.operations = Operations(stores.db, stores.jobs, recorder, ground.clock)
        self.operations.add_handler(OperationKind.CHECK_SUITE, CheckHandler(self.suites, ground.workshop.ready_judge))
        config, workshop = ground.config, ground.workshop
        at_once = config.evaluation.at_once or config.inference.parallel
        benchmark = TrainingBenchmark(self.suites, _prompting(ground), workshop.ready_judge, at_once)
        ground.training.measure_with(benchmark)
        self.reports = Reports(stores.db, recorder, ground.clock)
        bench = _bench(ground, self.suites, self.reports)
        self.evaluator = Evaluator(bench)
        self.operations.add_handler(OperationKind.EVALUATE, EvaluateHandler(self.evaluator))
        self.rehearser = Rehearser(bench)
        self.operations.add_handler(OperationKind.REHEARSE, RehearseHandler(self.rehearser))
        self.merger = Merger(ground.config, ground.home)
        examples = Examples(ground.config, ground.home, self.suites, _prompting(ground))
        self.operations.add_handler(OperationKind.MERGE, MergeHandler(stores.registry, self.merger, examples))
        self.drift = Drift(ground.config, ground.home, stores.db, ground.clock)
        self.promotions = Promotions(stores.registry, self.operations)
        evidences = self._evidences(ground)
        self.operations.add_handler(OperationKind.EVIDENCE, EvidenceHandler(evidences))
        self.operations.add_handler(OperationKind.EVOLVE, EvolveHandler(self._sweep_parts(ground, evidences, examples)))
        self.operations.add_handler(OperationKind.IMPROVE, ImproveHandler(self._improve_parts(ground)))
        self._sweeps = EvolutionWorker(self.operations, stores.registry, ground.config.evolution)

    def _evidences(self, ground: Ground) -> Evidences:
        stores, examiner = ground.stores, Examiner(self.evaluator)
        looks = Looks(stores.db, stores.journal.source("evolution"), ground.clock)
        return Evidences(
            EvidenceParts(ground.config, stores.registry, self.suites, examiner, _learned(ground), looks, self.drift)
        )

    def _sweep_parts(self, ground: Ground, evidences: Evidences, examples: Examples) -> SweepParts:
        stores, section = ground.stores, ground.config.evolution
        records = Records(stores.db, stores.journal.source("evolution"), ground.clock)
        examiner = Examiner(self.evaluator)
        school = TrainingSchool(TrainingSteps(stores.db, stores.journal, ground.training), _learned(ground))
        return SweepParts(
            section=section,
            registry=stores.registry,
            records=records,
            examiner=examiner,
            scoring=Scoring(stores.registry, examiner, self.merger, section.pass_weight),
            breeding=self.merger,
            prepare=examples,
            controls=Controls(stores.registry, records, examiner, self.merger, school),
            evidences=evidences,
            clock=ground.clock,
        )

    def _improve_parts(self, ground: Ground) -> ImproveParts:
        stores = ground.stores
        doors = Doors(ground.create_session, ground.resume_session, ground.cancel_session)
        return ImproveParts(
            suites=self.suites,
            solving=SessionRuns(stores.sessions, stores.journal, doors),
            training=TrainingSteps(stores.db, stores.journal, ground.training),
            rehearsing=RehearsalSteps(stores.journal, self.operations),
            gathering=EvidenceSteps(stores.journal, self.operations),
            registry=stores.registry,
            promotions=self.promotions,
            clock=ground.clock,
        )

    async def recover(self) -> None:
        """Settle what a dead engine left. Before any other recovery of jobs, and before `run`."""
        await self.merger.recover()
        await self.drift.recover()
        for operation in await self.operations.recover():
            log.warning("operation %s was left behind by a dead engine: now %s", operation.id, operation.state)

    async def run(self) -> None:
        """Work on operations until cancelled, and have sweeps made where that is wanted; what runs is queued again."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._sweeps.run(), name="sweeps")
            group.create_task(self.operations.run(), name="operations")


def _learned(ground: Ground) -> Learned:
    return Learned(ground.stores.db, ground.stores.registry, DataStore(ground.home / "training"))


def _bench(ground: Ground, suites: Suites, reports: Reports) -> Bench:
    device, base_id = ground.device, ground.config.model.base_id

    def answering(adapter: LiveAdapter | None) -> AdmittedProvider:
        return AdmittedProvider(device, base_id, adapter)

    return Bench(
        config=ground.config,
        suites=suites,
        reports=reports,
        adapters=ground.stores.registry,
        answering=answering,
        backend=lambda: device.status().backend,
        judge=ground.workshop.ready_judge,
        prompting=_prompting(ground),
        clock=ground.clock,
    )


def _prompting(ground: Ground) -> Callable[[], Awaitable[Prompting]]:
    async def prompting() -> Prompting:
        from engine.pipeline.prompting import PipelinePrompting  # Jinja: not for an engine that measures nothing

        return PipelinePrompting(await ground.workshop.ready_prompts())

    return prompting
