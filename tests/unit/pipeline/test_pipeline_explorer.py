"""Mode explore in a real sandbox with the real judge: what is found is verified and recorded like a model's answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.pipeline_fakes import FakeJudge, Ground, ScriptedProvider, Told, in_turn, make_parts
from support.small_api import api_task, rotate_then_order

from engine.api_models import Outcome, PhaseName, TaskMode, TaskSpec
from engine.config import load_config
from engine.evaluation.judge import Checks, Judge, Solution
from engine.evaluation.verdict import Strength, TestFailure, Verdict
from engine.pipeline.explorer import NAME, read_result
from engine.pipeline.grammar import Grammar, read_grammar
from engine.pipeline.parts import Parts
from engine.pipeline.run import initial_phases, run_session
from engine.sandbox.probe import probe
from engine.sandbox.run import Sandbox
from engine.sandbox.types import Level, Program, SandboxResult
from engine.training.dataset import examples_of

SILENT = ScriptedProvider(in_turn([RuntimeError("the explorer asks no model")]))
ANSWER = "def solve(xs):\n    xs = gyre(2, xs)\n    xs = nab(3, xs)\n    xs = tumble(xs)\n    return xs"


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    settings = load_config(Path("/nonexistent/config.toml")).sandbox.model_copy(update={"min_level": "none"})
    return Sandbox(settings, probe(settings))


class Saying:
    """A sandbox in which something else answers."""

    def __init__(self, stdout: str, *, timed_out: bool = False) -> None:
        self._result = SandboxResult(stdout, "", int(timed_out), timed_out, False, Level.STRICT, 0.1)
        self.programs: list[Program] = []

    async def run(self, program: Program) -> SandboxResult:
        self.programs.append(program)
        return self._result


def parts(ground: Ground, sandbox: object, **more: Any) -> Parts:
    return make_parts(ground.home, ground.store, SILENT, sandbox=sandbox, **more)


async def test_the_explorer_solves_what_no_model_was_asked(ground: Ground, sandbox: Sandbox) -> None:
    told = Told()
    task = rotate_then_order(3)
    result = await run_session("s", task, parts(ground, sandbox, judge=Judge(sandbox), report=told))
    assert (result.outcome, result.code, result.tokens) == (Outcome.VERIFIED, ANSWER, 0)
    (record,) = await ground.store.attempts("s")
    assert record.passed
    assert (record.model, record.backend, record.adapter_digest) == (NAME, NAME, None)
    assert record.response == f"```python\n{ANSWER}\n```"
    assert result.summary["explored"]["programs"] > 50
    assert "programs tried" in result.phases[0].detail
    assert [attempt.number for attempt in told.attempts] == [1]
    assert told.ended() == [PhaseName.ATTEMPT]


async def test_the_record_is_what_a_model_would_have_been_asked_and_training_takes_it(
    ground: Ground, sandbox: Sandbox
) -> None:
    task = rotate_then_order(3)
    await run_session("explored", task, parts(ground, sandbox, judge=Judge(sandbox)))
    model = ScriptedProvider(in_turn([f"```python\n{ANSWER}\n```"]))
    by_model = task.model_copy(update={"mode": TaskMode.ATTEMPT})
    await run_session("asked", by_model, make_parts(ground.home, ground.store, model, judge=Judge(sandbox)))
    (explored,), (asked,) = await ground.store.attempts("explored"), await ground.store.attempts("asked")
    assert (explored.prompt, explored.system_prompt) == (asked.prompt, asked.system_prompt)
    assert explored.code == asked.code, "the prelude is no part of either"
    assert asked.passed, "under the prelude the model's answer runs"
    (example,) = examples_of(_session("explored", task, explored.code), (explored,))
    assert example.completion == f"```python\n{ANSWER}\n```"
    assert example.messages[-1].content == asked.prompt


async def test_hidden_tests_have_the_last_word(ground: Ground, sandbox: Sandbox) -> None:
    """Negative control: visible tests that say too little are satisfied by a program that the hidden ones refuse."""
    task = api_task(
        "Order from largest down.",
        "assert solve([3, 3]) == [3, 3]",
        hidden_tests="assert solve([1, 2]) == [2, 1]",
    )
    result = await run_session("s", task, parts(ground, sandbox, judge=Judge(sandbox)))
    assert (result.outcome, result.code) == (Outcome.FAILED, "def solve(xs):\n    return xs")


async def test_nothing_found_is_a_failure_that_says_how_much_was_tried(ground: Ground, sandbox: Sandbox) -> None:
    task = api_task("Do it.", "assert solve([1, 2]) == 'no list'")
    result = await run_session("s", task, parts(ground, sandbox, explorer_programs=30))
    assert result.outcome is Outcome.FAILED
    assert "programs tried. None of them gives what the visible tests expect." in result.reason
    assert 0 < result.summary["explored"]["programs"] <= 30
    assert await ground.store.attempts("s") == ()


async def test_a_task_without_documented_calls_says_so(ground: Ground, sandbox: Sandbox) -> None:
    task = api_task("Do it.", "assert solve([1]) == [1]", files={})
    result = await run_session("s", task, parts(ground, sandbox))
    assert (result.outcome, result.attempts) == (Outcome.FAILED, 0)
    assert "document no function" in result.reason


async def test_it_goes_on_to_the_next_program_that_was_found(ground: Ground) -> None:
    judge = FirstFails()
    found = json.dumps({"found": ["tumble(xs)", "lone(xs)", "tumble(lone(xs))"], "programs": 9})
    result = await run_session("s", rotate_then_order(3), parts(ground, Saying(found), judge=judge))
    records = await ground.store.attempts("s")
    assert [record.passed for record in records] == [False, True]
    assert result.outcome is Outcome.VERIFIED
    assert result.code == "def solve(xs):\n    xs = lone(xs)\n    return xs"


async def test_the_cap_on_attempts_holds(ground: Ground) -> None:
    found = json.dumps({"found": ["tumble(xs)", "lone(xs)"], "programs": 9})
    task = rotate_then_order(3).model_copy(update={"max_attempts": 1})
    result = await run_session("s", task, parts(ground, Saying(found), judge=FirstFails()))
    assert (result.outcome, result.attempts) == (Outcome.FAILED, 1)


async def test_resumed_after_its_record_nothing_is_recorded_twice(ground: Ground) -> None:
    found = json.dumps({"found": ["tumble(xs)"], "programs": 9})
    for _ in range(2):  # without checkpoints of the first run: as if it had died right after recording
        (ground.home / "checkpoints.db").unlink(missing_ok=True)
        await run_session("s", rotate_then_order(3), parts(ground, Saying(found), judge=FirstFails()))
    assert [record.number for record in await ground.store.attempts("s")] == [1]


@pytest.mark.parametrize(
    "stdout",
    [
        "",
        "no JSON",
        "[1]",
        '{"found": ["tumble(xs)"]}',
        '{"found": 3, "programs": 1}',
        '{"found": ["__import__(\'os\').system(\'true\')"], "programs": 1}',
        '{"found": [["tumble(xs)"]], "programs": 1}',
    ],
)
async def test_a_sandbox_that_says_anything_else_gives_no_code(ground: Ground, stdout: str) -> None:
    judge = FakeJudge()
    result = await run_session("s", rotate_then_order(3), parts(ground, Saying(stdout), judge=judge))
    assert result.outcome is Outcome.FAILED
    assert judge.checked == [], "nothing of it ever runs"


def test_a_search_that_ran_out_of_time_says_so() -> None:
    grammar = read_grammar(rotate_then_order(3))
    assert isinstance(grammar, Grammar)
    late = SandboxResult("", "", 1, True, False, Level.STRICT, 30.0)
    assert read_result(late, grammar).problem == "The search ran out of time."
    boast = SandboxResult('{"found": [], "programs": 1e300}', "", 0, False, False, Level.STRICT, 1.0)
    assert read_result(boast, grammar).programs == 10_000_000


def test_a_new_session_in_mode_explore_shows_one_phase() -> None:
    assert [status.phase for status in initial_phases(rotate_then_order(3))] == [PhaseName.ATTEMPT]


async def test_lines_of_failures_are_those_of_the_models_code(ground: Ground, sandbox: Sandbox) -> None:
    model = ScriptedProvider(in_turn(["```python\ndef solve(xs):\n    return xs[99]\n```"]))
    task = rotate_then_order(3).model_copy(update={"mode": TaskMode.ATTEMPT, "max_attempts": 1})
    await run_session("s", task, make_parts(ground.home, ground.store, model, judge=Judge(sandbox)))
    (record,) = await ground.store.attempts("s")
    assert "Line 2: return xs[99]" in record.diagnosis


class FirstFails:
    """A judge that refuses the first program that it sees."""

    def __init__(self) -> None:
        self._seen = 0

    async def check(self, solution: Solution, checks: Checks) -> Verdict:
        self._seen += 1
        if self._seen > 1:
            return Verdict(True, Strength.VERIFIED, ran=1)
        failure = TestFailure("test", "mismatch", expected="1", got="2")
        return Verdict(False, Strength.VERIFIED, ran=1, failed=1, failures=(failure,))

    async def self_check(self, solution: Solution) -> Verdict:
        raise AssertionError("the task has tests")


def _session(session_id: str, task: TaskSpec, code: str) -> Any:
    from engine.api_models import RunState, SessionRecord

    return SessionRecord(
        id=session_id,
        task=task,
        state=RunState.SUCCEEDED,
        outcome=Outcome.VERIFIED,
        code=code,
        created_at="2026-01-01T00:00:00Z",
    )
