"""The four phases and repair: A05, A08, A10, A11, A13, A14, A16, with a model that answers by persona."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import pytest
from support.pipeline_fakes import PROMPTS, FakeJudge, Ground, Reply, ScriptedProvider, Told, defaults, make_parts

from engine.api_models import Outcome, PhaseName, TaskSpec
from engine.inference.provider import Request
from engine.pipeline.parts import SessionResult
from engine.pipeline.phases import EXAMPLE_NAMES
from engine.pipeline.run import initial_phases, run_session

LIST = "1. core - adds [depends: none]\n2. shell - shows [depends: core]\n3. input - reads"
PLAN = "It has one function that takes two numbers and gives their sum."
PASS = "```python\n# pass\ndef core(a, b): return a + b\n```"
FAIL = "```python\n# fail 1/2\ndef core(a, b): return a - b\n```"

PERSONAS = {
    "split a programming": "decompose",
    "architect": "plan",
    "programmer. You answer": "code",
    "fixes failing": "retry",
    "repairs one part": "repair",
    "puts parts together": "integrate",
    "cause of failing": "diagnose",
}

Answer = str | Sequence[str] | Callable[[str], str]


class Persona:
    """Answers each persona by its own list (the last again and again) or function of the prompt."""

    def __init__(self, **answers: Answer) -> None:
        base: dict[str, Answer] = {"decompose": LIST, "plan": PLAN, "code": PASS, "integrate": PASS}
        self._answers = {**base, **answers}
        self.prompts: dict[str, list[str]] = {name: [] for name in PERSONAS.values()}

    def __call__(self, request: Request, number: int) -> Reply:
        del number
        system, user = (message.content for message in request.messages)
        name = next(name for words, name in PERSONAS.items() if words in system)
        self.prompts[name].append(user)
        answer = self._answers[name]
        if isinstance(answer, str):
            return Reply(answer)
        if callable(answer):
            return Reply(answer(user))
        return Reply(answer[min(len(self.prompts[name]), len(answer)) - 1])


EMPTY = {"project": "", "target": "", "files": "", "prior": "", "cycle": ""}


def project(**more: object) -> TaskSpec:
    values: dict[str, object] = {"id": "t", "prompt": "Make an adder. It adds.", "tests": "assert core(1, 2) == 3"}
    return TaskSpec.model_validate({**values, **more})


def codes(result: SessionResult) -> dict[str, str]:
    """Subtask -> its code."""
    return {part["name"]: part["code"] for part in result.summary["subtasks"]}


async def test_all_four_phases_in_order_and_a08_what_each_prompt_carries(ground: Ground) -> None:
    persona, told, judge = Persona(), Told(), FakeJudge()
    parts = make_parts(ground.home, ground.store, ScriptedProvider(persona), report=told, judge=judge)
    result = await run_session("s", project(), parts)
    assert result.outcome is Outcome.VERIFIED
    assert told.ended() == [PhaseName.DECOMPOSE, PhaseName.PLAN, PhaseName.CODE, PhaseName.INTEGRATE]
    assert result.attempts == 1 + 3 + 3 + 1
    shell = next(prompt for prompt in persona.prompts["code"] if "Part: shell" in prompt)
    assert PLAN in shell
    assert "# core (tests passed)\ndef core(a, b):" in shell
    core = next(prompt for prompt in persona.prompts["code"] if "Part: core" in prompt)
    assert "can be used" not in core
    (integrate,) = persona.prompts["integrate"]
    assert "def core(a, b): return a + b" in integrate
    assert "core: PASSED" in integrate
    assert "assert core(1, 2) == 3" in integrate


async def test_a05_only_code_is_executed(ground: Ground) -> None:
    judge = FakeJudge()
    evil = "```python\n# pass evil\n```"
    persona = Persona(
        decompose=f"{LIST}\n{evil}", plan=f"{PLAN}\n{evil}", integrate=FAIL, diagnose=f"nobody\n{evil}", retry=FAIL
    )
    result = await run_session(
        "s", project(max_attempts=2), make_parts(ground.home, ground.store, ScriptedProvider(persona), judge=judge)
    )
    assert result.outcome is Outcome.FAILED
    assert persona.prompts["diagnose"]
    assert not any("evil" in solution.code for solution, _ in judge.checked)
    records = await ground.store.attempts("s")
    text_only = [record for record in records if record.phase in ("decompose", "plan", "diagnose")]
    assert text_only
    assert all((record.code, record.verdict, record.exit_code) == ("", {}, None) for record in text_only)


async def test_a08_the_retry_prompt_has_the_failing_code_error_and_diagnosis(ground: Ground) -> None:
    persona = Persona(code=FAIL, retry=PASS)
    await run_session("s", project(), make_parts(ground.home, ground.store, ScriptedProvider(persona)))
    retry = persona.prompts["retry"][0]
    for text in ("return a - b", "AssertionError: 3 != 4", "expected 3, got 4", "Failing tests: test_add", "1 of 2"):
        assert text in retry
    assert PLAN in retry


async def test_a10_decompose_retries_with_the_prior_list_until_it_is_good_enough(ground: Ground) -> None:
    persona = Persona(decompose=["I will do it.", "1. only-one - all", LIST])
    result = await run_session("s", project(), make_parts(ground.home, ground.store, ScriptedProvider(persona)))
    assert len(persona.prompts["decompose"]) == 3
    assert "I will do it" in persona.prompts["decompose"][1]
    assert "only-one" in persona.prompts["decompose"][2], "the best prior list is shown"
    assert result.summary["phases"]["decompose"]["score"] == 1.0
    assert [part["name"] for part in result.summary["subtasks"]] == ["core", "shell", "input"]


async def test_a10_no_list_at_all_becomes_one_fallback_subtask(ground: Ground) -> None:
    persona = Persona(decompose="I will do it.")
    result = await run_session(
        "s", project(max_attempts=2), make_parts(ground.home, ground.store, ScriptedProvider(persona))
    )
    assert [part["name"] for part in result.summary["subtasks"]] == ["implementation"]
    assert result.summary["phases"]["decompose"]["score"] == 0.05
    assert result.summary["phases"]["decompose"]["iterations"] == 2


ECHO = "1. task-model - A task\n2. task-store - Adds\n3. extra - More"


async def test_a10_a_list_that_repeats_the_worked_example_is_no_list(ground: Ground) -> None:
    assert all(name in PROMPTS.trajectory("decompose", EMPTY) for name in EXAMPLE_NAMES)
    persona = Persona(decompose=[ECHO, LIST])
    result = await run_session("a", project(), make_parts(ground.home, ground.store, ScriptedProvider(persona)))
    assert [part["name"] for part in result.summary["subtasks"]] == ["core", "shell", "input"]
    assert "earlier list" not in persona.prompts["decompose"][1]
    only_echo = make_parts(ground.home, ground.store, ScriptedProvider(Persona(decompose=ECHO)))
    result = await run_session("b", project(max_attempts=1), only_echo)
    (part,) = result.summary["subtasks"]
    assert (part["name"], part["description"]) == ("implementation", "Make an adder. It adds.")


async def test_more_than_eight_subtasks_are_cut_to_eight(ground: Ground) -> None:
    many = "\n".join(f"{number}. part-{number} - does it" for number in range(1, 31))
    persona = Persona(decompose=many)
    result = await run_session(
        "s", project(max_attempts=1), make_parts(ground.home, ground.store, ScriptedProvider(persona))
    )
    assert len(result.summary["subtasks"]) == 8


CIRCLE = "1. a-part - x [depends: b-part]\n2. b-part - y [depends: a-part]"


async def test_a11_a_circle_is_asked_about_once_with_its_name(ground: Ground) -> None:
    persona = Persona(decompose=[CIRCLE, LIST])
    result = await run_session("s", project(), make_parts(ground.home, ground.store, ScriptedProvider(persona)))
    again = persona.prompts["decompose"][1]
    assert "a-part -> b-part -> a-part" in again
    assert "1. a-part" in again
    assert result.outcome is Outcome.VERIFIED
    assert result.summary["phases"]["decompose"]["iterations"] == 2


async def test_a11_a_second_circle_is_a_readable_failure(ground: Ground) -> None:
    persona = Persona(decompose=CIRCLE)
    result = await run_session("s", project(), make_parts(ground.home, ground.store, ScriptedProvider(persona)))
    assert result.outcome is Outcome.FAILED
    assert "a-part -> b-part -> a-part" in result.reason
    assert len(persona.prompts["decompose"]) == 2
    assert not persona.prompts["plan"]


async def test_plans_that_are_too_short_are_asked_again_with_the_prior_one(ground: Ground) -> None:
    def plan(prompt: str) -> str:
        return PLAN if "Part: core" not in prompt or "earlier plan" in prompt else "short"

    persona = Persona(plan=plan)
    result = await run_session("s", project(), make_parts(ground.home, ground.store, ScriptedProvider(persona)))
    assert len(persona.prompts["plan"]) == 4
    assert any("short" in prompt for prompt in persona.prompts["plan"])
    assert result.summary["phases"]["plan"]["score"] == 1.0


async def test_a14_repair_rewrites_only_the_guilty_and_integrates_again(ground: Ground) -> None:
    persona = Persona(
        code=FAIL,
        retry=FAIL,
        integrate=lambda prompt: PASS if "mended" in prompt else FAIL,
        diagnose="1. core - subtracts",
        repair="```python\n# pass mended\n```",
    )
    result = await run_session(
        "s", project(max_attempts=1), make_parts(ground.home, ground.store, ScriptedProvider(persona))
    )
    assert result.outcome is Outcome.VERIFIED
    (repair,) = persona.prompts["repair"]
    assert "Part to repair: core" in repair
    assert "What is wrong: subtracts" in repair
    assert "Part shell:" in repair
    assert codes(result)["core"] == "# pass mended"
    assert "return a - b" in codes(result)["shell"]
    assert result.summary["phases"]["repair"] == [
        {"iteration": 1, "diagnosed": ["core"], "integration_error": "", "result": "passed", "score": 1.0}
    ]
    (diagnose,) = persona.prompts["diagnose"]
    assert "expected 3, got 4" in diagnose


async def test_a14_a_subtask_named_integrate_is_not_taken_for_the_whole_program(ground: Ground) -> None:
    persona = Persona(
        decompose="1. integrate - adds up [depends: none]\n2. shell - shows\n3. input - reads",
        integrate=lambda prompt: "```python\n# pass whole\n```" if "mended" in prompt else FAIL,
        diagnose="1. integrate - subtracts",
        repair="```python\n# pass mended\n```",
    )
    config = defaults(integrate_iterations=1)
    parts = make_parts(ground.home, ground.store, ScriptedProvider(persona), config=config)
    result = await run_session("s", project(), parts)
    assert (result.outcome, result.code) == (Outcome.VERIFIED, "# pass whole")
    assert codes(result)["integrate"] == "# pass mended"
    assert len(persona.prompts["integrate"]) == 2


async def test_a14_an_empty_diagnosis_stops_the_repair(ground: Ground) -> None:
    persona = Persona(integrate=FAIL, diagnose="I do not know.")
    result = await run_session("s", project(), make_parts(ground.home, ground.store, ScriptedProvider(persona)))
    assert len(persona.prompts["diagnose"]) == 1
    assert not persona.prompts["repair"]
    assert "repair" not in result.summary["phases"]
    assert result.outcome is Outcome.FAILED


async def test_a14_the_cap_stops_the_repair_and_the_best_state_is_kept(ground: Ground) -> None:
    worse = "```python\n# fail 0/2\n```"

    def integrate(prompt: str) -> str:
        return worse if "mended" in prompt else FAIL

    persona = Persona(integrate=integrate, diagnose="1. core - wrong", repair="```python\n# pass mended\n```")
    config = defaults(repair_iterations=2, integrate_iterations=1)
    result = await run_session(
        "s", project(), make_parts(ground.home, ground.store, ScriptedProvider(persona), config=config)
    )
    assert len(persona.prompts["repair"]) == 2
    assert "Tried before: wrong" in persona.prompts["repair"][1]
    assert "return a - b" in result.code
    assert "mended" not in codes(result)["core"]
    assert [entry["result"] for entry in result.summary["phases"]["repair"]] == ["kept", "kept"]


async def test_a14_an_empty_repair_is_a_failure_and_changes_nothing(ground: Ground) -> None:
    persona = Persona(integrate=FAIL, diagnose="1. core - wrong", repair="")
    config = defaults(repair_iterations=1, integrate_iterations=1)
    result = await run_session(
        "s", project(), make_parts(ground.home, ground.store, ScriptedProvider(persona), config=config)
    )
    assert "return a + b" in codes(result)["core"]
    records = await ground.store.attempts("s")
    assert [record.passed for record in records if record.phase is PhaseName.REPAIR] == [False]


async def test_a16_the_summary_has_every_key_and_whole_texts(ground: Ground) -> None:
    long = "```python\n# pass\n" + "x = 1\n" * 500 + "```"
    persona = Persona(integrate=long)
    parts = make_parts(ground.home, ground.store, ScriptedProvider(persona), adapter="a1", adapter_digest="ab" * 32)
    result = await run_session("s", project(), parts)
    summary = json.loads(json.dumps(result.summary, allow_nan=False))
    assert summary == result.summary
    assert set(summary) == {
        "session_id",
        "total_iterations",
        "project_prompt",
        "final_tests_passed",
        "phases",
        "subtasks",
        "adapters",
        "accumulated_code",
        "evolution",
    }
    assert summary["final_tests_passed"] is True
    assert set(summary["phases"]) == {"decompose", "plan", "code", "integrate"}
    assert summary["total_iterations"] == 4
    assert summary["evolution"] == {
        "phase_iterations": {"decompose": 1, "plan": 1, "code": 1, "integrate": 1},
        "sweeps": [],
        "best_adapters": ["a1"],
    }
    assert summary["adapters"][0] == {"adapter_id": "a1", "task_type": "phase1-decompose", "phase": "decompose"}
    assert summary["accumulated_code"].count("x = 1") == 500
    assert all(part["code"] and part["plan"] for part in summary["subtasks"])


async def test_a_session_writes_no_file_but_its_checkpoints(ground: Ground) -> None:
    before = {path.name for path in ground.home.iterdir()}
    await run_session("s", project(), make_parts(ground.home, ground.store, ScriptedProvider(Persona())))
    assert {path.name for path in ground.home.iterdir()} - before <= {
        "checkpoints.db",
        "checkpoints.db-wal",
        "checkpoints.db-shm",
    }


async def test_with_an_adapter_the_shorter_decompose_prompt_is_used(ground: Ground) -> None:
    plain, adapted = Persona(), Persona()
    await run_session("a", project(), make_parts(ground.home, ground.store, ScriptedProvider(plain)))
    provider = ScriptedProvider(adapted)
    parts = make_parts(ground.home, ground.store, provider, adapter="a1", adapter_digest="ab" * 32)
    await run_session("b", project(), parts)
    assert len(adapted.prompts["decompose"][0]) < len(plain.prompts["decompose"][0])
    assert {request.adapter for request in provider.requests} == {"ab" * 32}, "served under its digest"


async def test_subtasks_side_by_side_never_exceed_the_slots(ground: Ground) -> None:
    running = peak = 0

    class Counting(FakeJudge):
        async def self_check(self, solution: object) -> object:
            nonlocal running, peak
            running += 1
            peak = max(peak, running)
            try:
                return await super().self_check(solution)  # type: ignore[arg-type]
            finally:
                running -= 1

    many = "\n".join(f"{number}. part-{number} - does it" for number in range(1, 9))
    parts = make_parts(
        ground.home, ground.store, ScriptedProvider(Persona(decompose=many)), judge=Counting(), parallel=2
    )
    await run_session("s", project(), parts)
    assert 1 <= peak <= 2


@pytest.mark.parametrize(
    ("mode", "expected"), [("attempt", ["attempt"]), ("project", ["decompose", "plan", "code", "integrate"])]
)
def test_a_new_session_shows_its_phases_as_waiting(mode: str, expected: list[str]) -> None:
    phases = initial_phases(project(mode=mode))
    assert [status.phase.value for status in phases] == expected
    assert {status.state for status in phases} == {"waiting"}
