"""Measures an adapter, or the base model, on a suite: asks, runs, counts, and never asks the same twice.

    task ──render──► model server ──extract──► judge ──► passed | failed ──► stored
                          │                      │
                          └─ failed ─────────────┴─ tried once more ──► infrastructure: counts in no rate

As many answers are under way at once as the backend decodes together. Each is stored when it is judged, under the
digest of everything that it depends on; so an evaluation that was cancelled, or whose engine died, goes on where it
stood, and what two evaluations have in common is measured once. What was served is proven answer by answer: the server
names who answered, and an adapter's name is its digest.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from engine.api_learning import (
    BASE,
    EvaluateRequest,
    EvaluationReport,
    Operation,
    SampleOutcome,
    Split,
    SuiteTask,
)
from engine.config import Config
from engine.device.contracts import LiveAdapter
from engine.errors import (
    AdapterUnsupportedError,
    ConflictError,
    ContextOverflowError,
    InputError,
    NotFoundError,
    ProviderError,
)
from engine.evaluation.answers import to_be_judged
from engine.evaluation.asking import TRIES, Answering, Patience, ask_fitting, side_by_side
from engine.evaluation.judge import Checks, Solution
from engine.evaluation.measuring import (
    Model,
    Planned,
    make_report,
    plan,
    report_key,
    sampling_of,
    select,
    suite_digest,
)
from engine.evaluation.reports import Measured, Reports
from engine.evaluation.verdict import Verdict
from engine.inference.admitted import Answered
from engine.inference.base_identity import base_identity
from engine.inference.provider import Completion, Message, Request, Sampling
from engine.operations import Progress
from registry.clock import Clock, timestamp
from registry.errors import AdapterNotFound, RegistryError
from registry.files import run_to_end
from registry.models import LoadableAdapter

MAX_REASON = 300
"""Characters of the reason of one answer."""

log = logging.getLogger(__name__)


class TaskSource(Protocol):
    """Where tasks come from (`engine.evaluation.suites.library.Suites`)."""

    def tasks(self, name: str, seed: int, split: Split | None = None) -> tuple[SuiteTask, ...]:
        """The tasks as they are for that seed. Blocks.

        Raises:
            NotFoundError
        """
        ...


class Prompting(Protocol):
    """How a task is put to a model and its answer read (`engine.pipeline.prompting.PipelinePrompting`)."""

    def render(self, task: SuiteTask, *, open_book: bool = False, shrink: bool = False) -> tuple[Message, ...]:
        """What the model is given."""
        ...

    def extract(self, task: SuiteTask, completion: Completion) -> str:
        """The program that is judged; empty where there is none."""
        ...


class Judging(Protocol):
    """Decides about code (`engine.evaluation.judge.Judge`)."""

    async def check(self, solution: Solution, checks: Checks) -> Verdict:
        """The verdict of given tests and cases."""
        ...


class Adapters(Protocol):
    """Where adapters are (`registry.registry.Registry`)."""

    async def resolve_for_load(self, adapter_id: str) -> LoadableAdapter:
        """The adapter with its files, checked."""
        ...


@dataclass(frozen=True)
class Bench:
    """What the evaluator works with."""

    config: Config
    suites: TaskSource
    reports: Reports
    adapters: Adapters
    answering: Callable[[LiveAdapter | None], Answering]
    backend: Callable[[], str]
    """Name of the one that serves, or will."""
    judge: Callable[[], Awaitable[Judging]]
    prompting: Callable[[], Awaitable[Prompting]]
    clock: Clock


class Evaluator:
    """Measures; may be called for several evaluations at once, which then share what they have in common."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench

    async def check(self, request: EvaluateRequest) -> None:
        """Refuse what cannot be measured before it is queued.

        Raises:
            NotFoundError, InputError, ConflictError: as `evaluate`.
        """
        await self._tasks(request)
        await self._adapter(request.adapter)

    async def evaluate(self, request: EvaluateRequest, progress: Progress) -> EvaluationReport:
        """The report; one that was made before is given back, unless some of its answers said nothing.

        Raises:
            NotFoundError: there is no such suite or adapter.
            InputError: the suite has no such tasks.
            ConflictError: the adapter cannot be loaded.
            EnvironmentUnfitError, ProviderError: nothing can be measured here and now.
        """
        bench = self._bench
        tasks, chosen = await self._tasks(request)
        adapter = await self._adapter(request.adapter)
        prompting = await bench.prompting()
        sampling, model = self._sampling(request), await self._model(request, adapter)
        render = partial(prompting.render, open_book=request.open_book)
        planned = await asyncio.to_thread(plan, chosen, render, request, sampling, model)
        key = report_key(request, model, planned)
        known = await bench.reports.find(key)
        if known is not None and not known.infrastructure:
            await progress(len(planned), len(planned), "measured before")
            return known
        live = LiveAdapter(adapter.adapter.digest, str(adapter.directory), adapter.gguf_sha256) if adapter else None
        run = _Run(bench, prompting, render, await bench.judge(), bench.answering(live), live, model.backend, progress)
        started = bench.clock.monotonic()
        measured = await run.measure(planned)
        seconds = bench.clock.monotonic() - started
        report = make_report(request, model, sampling, planned, measured)
        created = timestamp(bench.clock.now())
        digest = await asyncio.to_thread(suite_digest, tasks)
        report = report.model_copy(
            update={"key": key, "suite_digest": digest, "seconds": seconds, "created_at": created}
        )
        await bench.reports.keep(report)
        return report

    async def _tasks(self, request: EvaluateRequest) -> tuple[tuple[SuiteTask, ...], tuple[SuiteTask, ...]]:
        """The tasks of the split, and those of them that the request is about."""
        tasks = await asyncio.to_thread(self._bench.suites.tasks, request.suite, request.seed, request.split)
        chosen = select(tasks, request)
        if not chosen:
            raise InputError(f"The suite {request.suite} has no such tasks in {request.split.value}.")
        return tasks, chosen

    async def _adapter(self, adapter_id: str) -> LoadableAdapter | None:
        if adapter_id == BASE:
            return None
        try:
            return await self._bench.adapters.resolve_for_load(adapter_id)
        except AdapterNotFound as error:
            raise NotFoundError(f"Adapter {adapter_id}: {error}") from error
        except RegistryError as error:
            raise ConflictError(f"Adapter {adapter_id}: {error}") from error

    def _sampling(self, request: EvaluateRequest) -> Sampling:
        drawn, tokens = self._bench.config.generation, self._bench.config.evaluation.max_tokens
        return sampling_of(request, Sampling(tokens, 0.0, drawn.top_p, drawn.repetition_penalty, request.seed))

    async def _model(self, request: EvaluateRequest, adapter: LoadableAdapter | None) -> Model:
        config, backend = self._bench.config, self._bench.backend()
        served = await run_to_end(lambda: base_identity(config, backend))
        digest = adapter.adapter.digest if adapter else None
        return Model(request.adapter, digest, config.model.base_id, served, backend)


class _Run:
    """One evaluation under way."""

    def __init__(
        self,
        bench: Bench,
        prompting: Prompting,
        render: Callable[..., tuple[Message, ...]],
        judge: Judging,
        provider: Answering,
        adapter: LiveAdapter | None,
        backend: str,
        progress: Progress,
    ) -> None:
        self._bench = bench
        self._prompting = prompting
        self._render = render
        self._judge = judge
        self._provider = provider
        self._adapter = adapter
        self._backend = backend
        self._progress = progress
        self._measured: dict[str, Measured] = {}
        self._total = 0
        self._patience = Patience()

    async def measure(self, planned: Sequence[Planned]) -> dict[str, Measured]:
        """Every sample by its key: those that are known, and the others measured."""
        self._total = len(planned)
        self._measured = await self._bench.reports.samples([sample.key for sample in planned])
        await self._tell()
        left = [sample for sample in planned if sample.key not in self._measured]
        config = self._bench.config
        await side_by_side(left, config.evaluation.at_once or config.inference.parallel, self._one)
        return self._measured

    async def _one(self, sample: Planned) -> None:
        measured = await self._try(lambda: self._answer(sample))
        if measured.outcome is SampleOutcome.INFRASTRUCTURE:
            self._patience.lose(measured.reason)
        else:
            self._patience.renew()
            await self._bench.reports.keep_sample(sample.key, measured)
        self._measured[sample.key] = measured
        await self._tell()

    async def _try(self, work: Callable[[], Awaitable[Measured]]) -> Measured:
        measured = await work()
        for _ in range(TRIES - 1):
            if measured.outcome is SampleOutcome.INFRASTRUCTURE:
                measured = await work()
        return measured

    async def _answer(self, sample: Planned) -> Measured:
        try:
            answered = await self._ask(sample)
        except ContextOverflowError as error:
            return Measured(SampleOutcome.FAILED, _line(str(error)), proven=False)
        except AdapterUnsupportedError:
            raise
        except ProviderError as error:
            log.warning("evaluation, task %s: %s", sample.task.id, error)
            return Measured(SampleOutcome.INFRASTRUCTURE, _line(str(error)))
        self._check_backend(answered)
        return await self._judged(sample, answered)

    def _check_backend(self, answered: Answered) -> None:
        """The sample's key says which backend answers: kept under it, another's answer would be wrong for ever.

        Raises:
            ProviderError: another one answered; when the evaluation is resumed, all is planned for that one.
        """
        if answered.backend and answered.backend != self._backend:
            raise ProviderError(
                f"The backend was switched to {answered.backend} while {self._backend} was measured; resume it."
            )

    async def _ask(self, sample: Planned) -> Answered:
        adapter = self._adapter.name if self._adapter else None

        def request(shrink: bool) -> Request:
            return Request(self._render(sample.task, shrink=shrink), sample.sampling, adapter=adapter)

        return await ask_fitting(self._provider, request, f"evaluation, task {sample.task.id}")

    async def _judged(self, sample: Planned, answered: Answered) -> Measured:
        completion, task = answered.completion, sample.task
        code = await asyncio.to_thread(self._prompting.extract, task, completion)
        tokens = completion.prompt_tokens + completion.completion_tokens
        if not code:
            reason = "the answer has no code"
            return Measured(SampleOutcome.FAILED, reason, "", answered.backend, answered.proven, tokens)
        verdict = await self._judge.check(*to_be_judged(task, code))
        reason = "" if verdict.passed else _reason(verdict)
        return Measured(_outcome(verdict), reason, code, answered.backend, answered.proven, tokens)

    async def _tell(self) -> None:
        outcomes = [measured.outcome for measured in self._measured.values()]
        await self._progress(len(outcomes), self._total, f"{outcomes.count(SampleOutcome.PASSED)} passed")


class EvaluateHandler:
    """Does the operations of the kind `evaluate`. Implements `engine.operations.Handler`."""

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator

    async def run(self, operation: Operation, progress: Progress) -> EvaluationReport:
        """See `Evaluator.evaluate`."""
        return await self._evaluator.evaluate(EvaluateRequest.model_validate(operation.request), progress)


def _outcome(verdict: Verdict) -> SampleOutcome:
    if verdict.infrastructure:
        return SampleOutcome.INFRASTRUCTURE
    return SampleOutcome.PASSED if verdict.passed else SampleOutcome.FAILED


def _reason(verdict: Verdict) -> str:
    if verdict.error:
        return _line(verdict.error)
    if verdict.timed_out:
        return "it did not end in time"
    if verdict.failures:
        first = verdict.failures[0]
        return _line(f"{first.kind}: {first.message}" if first.message else first.kind)
    return "nothing that counts as a test ran"


def _line(text: str) -> str:
    return " ".join(text.split())[:MAX_REASON]
