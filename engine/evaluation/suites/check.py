"""`suite check`: proves that a suite can decide anything.

Its references pass, changed references fail, and nothing of its train split is in the other splits: no template, no
normalised program, no 13 words in a row.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence

from engine.api_learning import CheckSuiteRequest, Operation, Split, SuiteCheck, SuiteTask
from engine.evaluation.judge import Judge
from engine.evaluation.overlap import Document, find_overlaps
from engine.evaluation.suites.library import Suites
from engine.evaluation.suites.proving import Proof, Prover, batches
from engine.operations import Progress

AT_ONCE = max(1, min(4, os.cpu_count() or 1))
"""Sandboxes side by side: as many as there are processors, and no more than leave a model server its memory."""
MAX_PROBLEMS = 100
"""Sentences of a report; how many more there are is the last."""


class CheckHandler:
    """Does operations of the kind `check-suite`. Keeps nothing: one that was interrupted begins again."""

    def __init__(self, suites: Suites, judge: Callable[[], Awaitable[Judge]]) -> None:
        """
        Args:
            judge: gives the engine's judge, which is made when it is first needed.
        """
        self._suites = suites
        self._judge = judge

    async def run(self, operation: Operation, progress: Progress) -> SuiteCheck:
        """Check the suite that the operation names.

        Raises:
            NotFoundError: there is no such suite.
            InputError: its file cannot be read any more.
            SandboxUnavailableError: nothing can be run here.
        """
        request = CheckSuiteRequest.model_validate(operation.request)
        tasks = await asyncio.to_thread(self._suites.tasks, request.suite, request.seed)
        await progress(0, len(tasks), "reading")
        proofs = await self._prove(tasks, progress)
        shared = await asyncio.to_thread(overlap_problems, tasks)
        return SuiteCheck(
            name=request.suite,
            seed=request.seed,
            tasks=len(tasks),
            references_passed=sum(proof.passed for proof in proofs),
            mutants=sum(proof.mutants for proof in proofs),
            mutants_killed=sum(proof.killed for proof in proofs),
            problems=_cut([proof.problem for proof in proofs if proof.problem] + shared),
        )

    async def _prove(self, tasks: Sequence[SuiteTask], progress: Progress) -> list[Proof]:
        prover = Prover(await self._judge())
        free = asyncio.Semaphore(AT_ONCE)
        done = 0

        async def prove(batch: Sequence[SuiteTask]) -> tuple[Proof, ...]:
            nonlocal done
            async with free:
                proofs = await prover.prove(batch)
            done += len(batch)
            await progress(done, len(tasks), "references and mutants")
            return proofs

        async with asyncio.TaskGroup() as group:
            running = [group.create_task(prove(batch), name="suite check") for batch in batches(tasks)]
        return [proof for task in running for proof in task.result()]


def overlap_problems(tasks: Sequence[SuiteTask]) -> list[str]:
    """What the train split shares with the splits that decide, one sentence each. Pure; takes a moment."""
    learned = [task for task in tasks if task.split is Split.TRAIN]
    deciding = [task for task in tasks if task.split is not Split.TRAIN]
    both = sorted({task.template for task in learned} & {task.template for task in deciding})
    problems = [f"The template {template} is in train and in another split." for template in both]
    found = find_overlaps([_document(task) for task in deciding], [_document(task) for task in learned])
    return problems + [f"{overlap}." for overlap in (*found.exact, *found.near)]


def _document(task: SuiteTask) -> Document:
    return Document(task.id, task.prompt, task.reference or "", task.template)


def _cut(problems: Sequence[str]) -> tuple[str, ...]:
    if len(problems) <= MAX_PROBLEMS:
        return tuple(problems)
    return (*problems[:MAX_PROBLEMS], f"There are {len(problems) - MAX_PROBLEMS} more problems.")
