"""Proves the checks of a suite: references pass, changed references fail.

Starting a sandbox costs a hundred times what a reference does. So tasks with cases are run many to a sandbox, and only
where such a batch is not clean is it halved, down to the single task, which is then judged exactly as an answer is:

    batch ──clean──► every task of it is proven
      └──not clean──► two halves ──► ... ──► one task ──► judged by itself

References and mutants are the suite author's own code. A batch may therefore compare inside the sandbox; nothing that
a model wrote ever comes this way.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from engine.api_learning import SuiteTask
from engine.api_models import Case, CaseSuite
from engine.evaluation.judge import Checks, Judge
from engine.evaluation.programs import Solution
from engine.evaluation.suites.mutate import mutants
from engine.evaluation.suites.solutions import checks_of, solution_of, with_prelude
from engine.evaluation.verdict import Verdict

MAX_MUTANTS = 3
"""Of one reference: a mutant may do just what the reference does, three hardly ever do."""
BATCH = 40
"""Tasks of one sandbox run: seconds of work at most, within the sandbox's time limit."""

_DRIVER = """\
import json

PROGRAMS = {programs!r}


def run(index, calls):
    source, name, visible = PROGRAMS[index]
    scope = {{"__name__": "solution"}}
    exec(compile(source, "solution.py", "exec"), scope)
    exec(compile(visible, "visible.py", "exec"), scope)
    return [scope[name](*args, **kwargs) for args, kwargs in calls]


def differs(index, calls, expected):
    try:
        answers = json.dumps(run(index, calls), sort_keys=True)
    except Exception:
        return True
    return answers != json.dumps(expected, sort_keys=True)
"""


@dataclass(frozen=True)
class Proof:
    """What became of one task's reference and mutants."""

    task: str
    passed: bool
    mutants: int = 0
    killed: int = 0
    problem: str = ""
    """One sentence; empty where all is well."""


class Prover:
    """Runs the references of a suite's tasks and what mutation makes of them. Holds no state between calls."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge

    async def prove(self, tasks: Sequence[SuiteTask]) -> tuple[Proof, ...]:
        """The proofs of tasks that belong together (see `batches`), in their order."""
        proofs = {task.id: Proof(task.id, False, problem=_unproven(task)) for task in tasks if task.reference is None}
        with_reference = [task for task in tasks if task.reference is not None]
        async for task in self._clean(with_reference, self._references_pass):
            proofs[task.id] = Proof(task.id, True)
        for task in with_reference:
            if task.id not in proofs:
                proofs[task.id] = await self._judged(task)
        passed = [task for task in with_reference if proofs[task.id].passed]
        async for task in self._clean(passed, self._first_mutants_fail):
            proofs[task.id] = Proof(task.id, True, mutants=1, killed=1)
        for task in passed:
            if not proofs[task.id].mutants:
                proofs[task.id] = await self._mutated(task)
        return tuple(proofs[task.id] for task in tasks)

    async def _clean(
        self, tasks: Sequence[SuiteTask], all_well: Callable[[Sequence[SuiteTask]], Awaitable[bool]]
    ) -> AsyncIterator[SuiteTask]:
        """The tasks for which it is well, found by halving; single ones are left to be judged by themselves."""
        if len(tasks) < 2:
            return
        if await all_well(tasks):
            for task in tasks:
                yield task
            return
        middle = len(tasks) // 2
        for half in (tasks[:middle], tasks[middle:]):
            async for task in self._clean(half, all_well):
                yield task

    async def _references_pass(self, tasks: Sequence[SuiteTask]) -> bool:
        programs = [(_source(task, task.reference or ""), _function(task), task.visible_tests or "") for task in tasks]
        items = tuple(Case(args=(index, _calls(task)), expected=_expected(task)) for index, task in enumerate(tasks))
        return (await self._run(tasks, programs, CaseSuite(function="run", items=items))).passed

    async def _first_mutants_fail(self, tasks: Sequence[SuiteTask]) -> bool:
        first = [next(mutants(task.reference or ""), None) for task in tasks]
        if any(source is None for source in first):
            return False
        programs = [
            (_source(task, source or ""), _function(task), "") for task, source in zip(tasks, first, strict=True)
        ]
        items = tuple(
            Case(args=(index, _calls(task), _expected(task)), expected=True) for index, task in enumerate(tasks)
        )
        return (await self._run(tasks, programs, CaseSuite(function="differs", items=items))).passed

    async def _run(self, tasks: Sequence[SuiteTask], programs: list[tuple[str, str, str]], cases: CaseSuite) -> Verdict:
        code = _DRIVER.format(programs=programs)
        return await self._judge.check(Solution(code, tasks[0].files), Checks(cases=cases))

    async def _judged(self, task: SuiteTask) -> Proof:
        solution = solution_of(task, task.reference or "")
        verdict = await self._check(solution, checks_of(task))
        if not verdict.passed:
            return Proof(task.id, False, problem=f"{task.id}: the reference fails: {_why(verdict)}.")
        if task.visible_tests is not None:
            seen = await self._check(solution, Checks(tests=task.visible_tests))
            if not seen.passed:
                return Proof(task.id, False, problem=f"{task.id}: the reference fails visible tests: {_why(seen)}.")
        return Proof(task.id, True)

    async def _mutated(self, task: SuiteTask) -> Proof:
        tried = 0
        for source in itertools.islice(mutants(task.reference or ""), MAX_MUTANTS):
            tried += 1
            verdict = await self._check(solution_of(task, source), checks_of(task))
            if not verdict.passed and not verdict.infrastructure:
                return Proof(task.id, True, tried, 1)
        return Proof(task.id, True, tried, 0, f"{task.id}: none of {tried} changed references fails its checks.")

    async def _check(self, solution: Solution, checks: Checks) -> Verdict:
        """The verdict; asked once more where the judge itself failed."""
        verdict = await self._judge.check(solution, checks)
        return await self._judge.check(solution, checks) if verdict.infrastructure else verdict


def batches(tasks: Sequence[SuiteTask]) -> list[list[SuiteTask]]:
    """Tasks that can share a sandbox together, the others by themselves, all in the suite's order."""
    together: dict[tuple[str, tuple[tuple[str, str], ...]], list[SuiteTask]] = {}
    found: list[list[SuiteTask]] = []
    for task in tasks:
        if task.cases is None or task.tests is not None:
            found.append([task])
            continue
        key = (task.prelude, tuple(sorted(task.files.items())))
        if len(together.get(key, ())) in (0, BATCH):
            together[key] = []
            found.append(together[key])
        together[key].append(task)
    return found


def _unproven(task: SuiteTask) -> str:
    return f"{task.id}: there is no reference, so nothing proves that it can be solved."


def _source(task: SuiteTask, code: str) -> str:
    return with_prelude(task.prelude, code)


def _cases(task: SuiteTask) -> CaseSuite:
    assert task.cases is not None, "only tasks with cases are run many to a sandbox"
    return task.cases


def _function(task: SuiteTask) -> str:
    return _cases(task).function


def _calls(task: SuiteTask) -> list[JsonValue]:
    def call(args: Sequence[JsonValue], kwargs: Mapping[str, JsonValue]) -> JsonValue:
        return [list(args), dict(kwargs)]

    return [call(case.args, case.kwargs) for case in _cases(task).items]


def _expected(task: SuiteTask) -> list[JsonValue]:
    return [case.expected for case in _cases(task).items]


def _why(verdict: Verdict) -> str:
    """The first thing that went wrong, one line."""
    if verdict.failures:
        failure = verdict.failures[0]
        text = f"{failure.name}: {failure.kind} {failure.message}"
    else:
        text = verdict.error or ("it takes too long" if verdict.timed_out else "no check ran")
    return " ".join(text.split())[:200].rstrip(".")
