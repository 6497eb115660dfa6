"""Rehearsal rows: what the base model says on other domains, for an adapter to learn along with its own.

    train split ──spread──► prompt ──render──► base model, greedy ──► a row of training data, marked `keep`

An adapter that learns one domain alone moves the model's answers everywhere, since nothing it learns from says where to
stay; added to another adapter it spoils both. Such rows hold it to the base model's own distribution elsewhere:
pseudo-rehearsal (Robins 1995, "Catastrophic forgetting, rehearsal and pseudorehearsal"), learning without forgetting
(Li and Hoiem 2016, arXiv 1606.09282). The beginning of an answer is enough, for it decides which language is spoken;
where it was cut off, its end is not learned.

Asked as an evaluation asks, by the same templates. Nothing is stored on the way: what was interrupted begins anew.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from engine.api_learning import REHEARSAL, Operation, RehearsalReport, RehearsalRow, RehearseRequest, Split, SuiteTask
from engine.errors import ContextOverflowError, InputError, ProviderError
from engine.evaluation.asking import TRIES, Answering, Patience, ask_fitting, side_by_side
from engine.evaluation.evaluator import Bench, Prompting
from engine.evaluation.measuring import sample_seed
from engine.inference.admitted import Answered
from engine.inference.provider import Message, Request, Sampling
from engine.operations import Progress

REPLACEMENT = "\ufffd"
"""What a decoder writes for a character of which not all bytes have come yet; at a cut the model did not say it."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Question:
    """One prompt that is put to the base model."""

    task: SuiteTask
    name: str
    """`rehearsal/<suite>/<task>`: unlike the tasks of what else is learned, so that a row counts towards no other's
    cap, and is not taken for what the adapter is for."""


@dataclass
class _Said:
    """What came of the questions so far."""

    rows: dict[str, RehearsalRow] = field(default_factory=dict[str, RehearsalRow])
    answers: list[Answered] = field(default_factory=list[Answered])
    too_long: int = 0
    unanswered: int = 0

    @property
    def done(self) -> int:
        """Questions of which it is known what became of them."""
        return len(self.answers) + self.too_long + self.unanswered

    def keep(self, question: Question, messages: Sequence[Message], answered: Answered) -> None:
        """It was answered."""
        self.answers.append(answered)
        completion = answered.completion
        row = row_of(question.name, messages, completion.text, cut=completion.finish_reason != "stop")
        if row is not None:
            self.rows[question.name] = row


class Rehearser:
    """Asks the base model; may be called for several rehearsals at once, which know nothing of each other."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench

    async def check(self, request: RehearseRequest) -> None:
        """Refuse what nothing can be rehearsed from before it is queued.

        Raises:
            NotFoundError: there is no such suite.
            InputError: a suite has nothing to learn from.
        """
        await self._questions(request)

    async def rehearse(self, request: RehearseRequest, progress: Progress) -> RehearsalReport:
        """The rows, in the order of the request's suites and of their tasks.

        Raises:
            NotFoundError, InputError: as `check`.
            DeviceBusyError, EnvironmentUnfitError: no model can answer here and now.
            ProviderError: the model server fails, or there is no row in the end.
        """
        bench = self._bench
        questions = await self._questions(request)
        drawn = bench.config.generation
        sampling = Sampling(request.max_tokens, 0.0, drawn.top_p, drawn.repetition_penalty, request.seed)
        run = _Run(sampling, await bench.prompting(), bench.answering(None), progress, len(questions))
        await progress(0, len(questions))
        started = bench.clock.monotonic()
        at_once = bench.config.evaluation.at_once or bench.config.inference.parallel
        await side_by_side(questions, at_once, run.one)
        said = run.said
        if not said.rows:
            raise ProviderError(
                f"No row came of {len(questions)} prompts: {len(said.answers)} answers are empty, {said.too_long} are "
                f"too long, the model server failed on {said.unanswered}; see the log in RUNE_HOME/logs."
            )
        return RehearsalReport(
            suites=request.suites,
            seed=request.seed,
            max_tokens=request.max_tokens,
            base_model=bench.config.model.base_id,
            backend=", ".join(sorted({answered.backend for answered in said.answers})),
            base_proven=all(answered.proven for answered in said.answers),
            asked=len(questions),
            empty=len(said.answers) - len(said.rows),
            too_long=said.too_long,
            unanswered=said.unanswered,
            tokens=sum(one.completion.prompt_tokens + one.completion.completion_tokens for one in said.answers),
            seconds=bench.clock.monotonic() - started,
            rows=tuple(said.rows[question.name] for question in questions if question.name in said.rows),
        )

    async def _questions(self, request: RehearseRequest) -> tuple[Question, ...]:
        return await asyncio.to_thread(self._chosen, request)

    def _chosen(self, request: RehearseRequest) -> tuple[Question, ...]:
        chosen: list[Question] = []
        for suite in request.suites:
            tasks = self._bench.suites.tasks(suite, request.seed, Split.TRAIN)
            if not tasks:
                raise InputError(
                    f"The suite {suite} has no tasks in train: nothing is rehearsed from what decides; "
                    "name a suite that has some (`rune-tui suite list`)."
                )
            chosen += [
                Question(task, f"{REHEARSAL}{suite}/{task.id}") for task in spread(tasks, request.count, request.seed)
            ]
        return tuple(chosen)


class _Run:
    """One rehearsal under way."""

    def __init__(
        self, sampling: Sampling, prompting: Prompting, provider: Answering, progress: Progress, total: int
    ) -> None:
        self._sampling = sampling
        self._prompting = prompting
        self._provider = provider
        self._progress = progress
        self._total = total
        self._patience = Patience()
        self.said = _Said()

    async def one(self, question: Question) -> None:
        """Ask it and keep what came of it.

        Raises:
            DeviceBusyError, EnvironmentUnfitError: no model can answer.
            ProviderError: too many in a row were not answered.
        """
        said = self.said
        try:
            messages, answered = await self._answer(question)
        except ContextOverflowError:
            said.too_long += 1
        except ProviderError as error:
            log.warning("rehearsal, task %s: %s", question.name, error)
            said.unanswered += 1
            self._patience.lose(str(error))
        else:
            self._patience.renew()
            said.keep(question, messages, answered)
        await self._progress(said.done, self._total, f"{len(said.rows)} rows")

    async def _answer(self, question: Question) -> tuple[tuple[Message, ...], Answered]:
        """The answer, and what it is one to; a failure of the server is forgiven as often as in an evaluation."""
        sampling = replace(self._sampling, seed=sample_seed(self._sampling.seed, question.task.id, 0))
        asked: list[tuple[Message, ...]] = []

        def request(shrink: bool) -> Request:
            asked.append(self._prompting.render(question.task, shrink=shrink))
            return Request(asked[-1], sampling)

        what = f"rehearsal, task {question.name}"
        for _ in range(TRIES - 1):
            try:
                answered = await ask_fitting(self._provider, request, what)
                return asked[-1], answered
            except ContextOverflowError:
                raise
            except ProviderError as error:
                log.info("%s: %s Tried once more.", what, error)
        answered = await ask_fitting(self._provider, request, what)
        return asked[-1], answered


class RehearseHandler:
    """Does the operations of the kind `rehearse`. Implements `engine.operations.Handler`."""

    def __init__(self, rehearser: Rehearser) -> None:
        self._rehearser = rehearser

    async def run(self, operation: Operation, progress: Progress) -> RehearsalReport:
        """See `Rehearser.rehearse`."""
        return await self._rehearser.rehearse(RehearseRequest.model_validate(operation.request), progress)


def spread(tasks: Sequence[SuiteTask], count: int, seed: int) -> tuple[SuiteTask, ...]:
    """`count` of the tasks, or all where there are fewer: one of each stretch of their order, which one by the seed.

    Suites have their tasks template after template, so that the first so many would be of a few templates.
    """
    if len(tasks) <= count:
        return tuple(tasks)
    bounds = [number * len(tasks) // count for number in range(count + 1)]
    return tuple(tasks[low + _draw(seed, low) % (high - low)] for low, high in pairwise(bounds))


def row_of(task: str, messages: Sequence[Message], text: str, *, cut: bool) -> RehearsalRow | None:
    """What was asked and said as a row to learn; None where nothing was said."""
    said = text.rstrip(REPLACEMENT) if cut else text
    if not said.strip():
        return None
    turns = {message.role: message.content for message in messages}
    return RehearsalRow(prompt=turns["user"], completion=said, system=turns.get("system", ""), task=task, cut=cut)


def _draw(seed: int, place: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{place}".encode()).digest()[:8], "big")
