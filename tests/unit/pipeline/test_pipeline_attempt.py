"""The attempt loop in attempt mode: A01-A03, A05, A06 (as far as the pipeline decides it), A13."""

from __future__ import annotations

import itertools

import pytest
from support.pipeline_fakes import FakeJudge, Ground, Reply, ScriptedProvider, Told, defaults, in_turn, make_parts

from engine.api_models import PASSING, Case, CaseSuite, Outcome, PhaseName, TaskMode, TaskSpec
from engine.errors import BudgetExceededError, ContextOverflowError, ProviderError
from engine.evaluation.judge import Checks, Solution
from engine.evaluation.verdict import Strength, TestFailure, Verdict
from engine.pipeline.run import run_session
from engine.pipeline.turns import Turn, best_turn, route, verdict_from, verdict_json

PASS = "```python\n# pass\nx = 1\n```"
FAIL = "```python\n# fail 1/3\nx = 1\n```"
HONEST = "```python\n# pass # honest\n```"
"""Passes the hidden tests too."""


def task(**more: object) -> TaskSpec:
    values: dict[str, object] = {"id": "t", "prompt": "Add two numbers.", "tests": "assert add(1, 2) == 3"}
    return TaskSpec.model_validate({**values, "mode": TaskMode.ATTEMPT, **more})


@pytest.mark.parametrize(
    ("passed", "attempts", "cap"), list(itertools.product([True, False], range(1, 5), range(1, 4)))
)
def test_a01_routing_for_every_combination_of_passed_and_attempts(passed: bool, attempts: int, cap: int) -> None:
    expected = "save" if passed else ("save" if attempts >= cap else "generate")
    assert route(passed, attempts, cap) == expected


@pytest.mark.parametrize(
    ("answers", "cap", "attempts", "outcome"),
    [
        ([PASS], 3, 1, Outcome.VERIFIED),
        ([FAIL, PASS], 3, 2, Outcome.VERIFIED),
        ([FAIL, FAIL, PASS], 3, 3, Outcome.VERIFIED),
        ([FAIL, FAIL, FAIL, PASS], 3, 3, Outcome.FAILED),
        ([FAIL], 1, 1, Outcome.FAILED),
    ],
)
async def test_a01_a02_success_retry_exhausted(
    ground: Ground, answers: list[str], cap: int, attempts: int, outcome: Outcome
) -> None:
    provider, told = ScriptedProvider(in_turn(answers)), Told()
    result = await run_session(
        "s", task(max_attempts=cap), make_parts(ground.home, ground.store, provider, report=told)
    )
    records = await ground.store.attempts("s")
    assert result.outcome is outcome
    assert result.attempts == len(records) == len(provider.requests) == len(told.attempts) == attempts
    assert [record.number for record in records] == list(range(1, attempts + 1))
    assert result.tokens == 15 * attempts
    assert result.phases[0].iterations == attempts
    assert told.ended() == [PhaseName.ATTEMPT]


async def test_a02_a_record_is_complete(ground: Ground) -> None:
    provider = ScriptedProvider(in_turn([FAIL]))
    parts = make_parts(ground.home, ground.store, provider, adapter="a1", adapter_digest="sha256:1")
    await run_session("s", task(max_attempts=1, seed=7), parts)
    (record,) = await ground.store.attempts("s")
    assert record.response == FAIL
    assert record.code == "# fail 1/3\nx = 1"
    assert "Add two numbers." in record.prompt
    assert record.system_prompt.startswith("You are")
    assert (record.passed, record.exit_code, record.stdout) == (False, 1, "printed by the code")
    assert verdict_from({**record.verdict, "stdout": "", "stderr": ""}).failures[0].expected == "3"
    assert "expected 3, got 4" in record.diagnosis
    assert (record.adapter_digest, record.backend, record.sandbox_level) == ("sha256:1", "scripted", "strict")
    assert (record.prompt_tokens, record.completion_tokens) == (10, 5)
    assert record.seed == provider.requests[0].sampling.seed
    assert provider.requests[0].adapter == "sha256:1", "served under its digest"


async def test_a03_a08_what_was_tried_reaches_the_second_attempt(ground: Ground) -> None:
    provider = ScriptedProvider(in_turn([FAIL, PASS]))
    await run_session("s", task(), make_parts(ground.home, ground.store, provider))
    first, second = provider.prompts()
    assert "assert add(1, 2) == 3" in first
    assert "# fail 1/3" not in first
    for text in (
        "# fail 1/3\nx = 1",
        "printed by the code",
        "AssertionError: 3 != 4",
        "Exit code: 1",
        "expected 3, got 4",
    ):
        assert text in second


def answer(passed: int) -> str:
    return f"```python\n# fail {passed}/3\n```"


async def test_retries_use_other_seeds_and_the_same_code_again_raises_the_temperature(ground: Ground) -> None:
    provider = ScriptedProvider(in_turn([answer(0), answer(1), answer(1), answer(2), answer(2)]))
    await run_session("s", task(max_attempts=5), make_parts(ground.home, ground.store, provider))
    drawn = [request.sampling for request in provider.requests]
    assert len({sampling.seed for sampling in drawn}) == 5
    assert [sampling.temperature for sampling in drawn] == pytest.approx([0.3, 0.3, 0.3, 1.0, 0.5])


async def test_a_try_that_is_no_better_is_followed_by_a_fresh_draw_that_knows_nothing_of_it(ground: Ground) -> None:
    provider = ScriptedProvider(in_turn([answer(1), answer(0), answer(1), answer(2), answer(2)]))
    await run_session("s", task(max_attempts=5), make_parts(ground.home, ground.store, provider))
    shown = ["This code was tried" in prompt for prompt in provider.prompts()]
    assert shown == [False, True, False, False, True], "the second always reflects; later ones while it gets better"
    drawn = [request.sampling.temperature for request in provider.requests]
    assert drawn[2:4] == pytest.approx([0.8, 1.0]), "a repeat raises the temperature of a fresh draw too"
    assert provider.prompts()[2] == provider.prompts()[0]


async def test_the_same_base_seed_gives_the_same_seeds_and_another_gives_others(ground: Ground) -> None:
    seeds: list[list[int]] = []
    for session, seed in (("a", 3), ("b", 3), ("c", 4)):
        provider = ScriptedProvider(in_turn([FAIL]))
        await run_session(session, task(seed=seed, max_attempts=2), make_parts(ground.home, ground.store, provider))
        seeds.append([request.sampling.seed for request in provider.requests])
    assert seeds[0] == seeds[1]
    assert not set(seeds[0]) & set(seeds[2])


async def test_the_best_attempt_is_the_final_code(ground: Ground) -> None:
    answers = ["```python\n# fail 1/3\n```", "```python\n# fail 2/3\n```", "```python\n# fail 0/3\n```"]
    provider = ScriptedProvider(in_turn(answers))
    result = await run_session("s", task(max_attempts=3), make_parts(ground.home, ground.store, provider))
    assert result.code == "# fail 2/3"
    assert result.outcome is Outcome.FAILED
    assert "2 of 3" in result.reason


def turn(code: str, *, passed: bool = False, ran: int = 0, failed: int = 0) -> Turn:
    verdict = Verdict(passed, Strength.VERIFIED, ran=ran, failed=failed)
    return Turn(
        number=0,
        text="",
        code=code,
        finish_reason="stop",
        truncated=False,
        verdict=verdict_json(verdict),
        diagnosis="",
        error="",
        failed_tests="",
    )


@pytest.mark.parametrize(
    ("worse", "better"),
    [
        (turn("a", ran=9, failed=1), turn("b", passed=True, ran=1)),
        (turn("a", ran=3, failed=2), turn("b", ran=4, failed=2)),
        (turn("x ="), turn("x = 1")),
        (turn(""), turn("x ")),
        (turn("x"), turn("y", ran=1, failed=1)),
        (turn("y"), turn("x")),  # equals: the first
    ],
)
def test_a_pass_beats_everything_then_passed_tests_then_code_that_runs_then_the_first(
    worse: Turn, better: Turn
) -> None:
    assert best_turn([better, worse]) == better
    if worse["code"] != "y":
        assert best_turn([worse, better]) == better


def test_verdicts_survive_the_checkpoint_unchanged() -> None:
    verdict = Verdict(
        False, Strength.IN_PROCESS, ran=2, failed=1, failures=(TestFailure("t", "E", expected="1"),), notes=("n",)
    )
    assert verdict_from(verdict_json(verdict)) == verdict


@pytest.mark.parametrize("answer", ["", "```python\n```", "```bash\nls\n```"])
async def test_a05_an_answer_without_code_is_a_failure_and_nothing_runs(ground: Ground, answer: str) -> None:
    judge = FakeJudge()
    parts = make_parts(ground.home, ground.store, ScriptedProvider(in_turn([answer])), judge=judge)
    result = await run_session("s", task(max_attempts=1), parts)
    assert result.outcome is Outcome.FAILED
    assert not judge.checked
    (record,) = await ground.store.attempts("s")
    assert not record.passed
    assert "no code" in record.diagnosis


async def test_a13_a_cut_answer_is_continued_and_concatenated(ground: Ground) -> None:
    answers = [Reply("```python\ndef f(x):\n    return x", "length"), Reply(" + 1  # pass\n```", "stop")]
    provider = ScriptedProvider(in_turn(answers))
    result = await run_session("s", task(), make_parts(ground.home, ground.store, provider))
    assert result.outcome is Outcome.VERIFIED
    assert result.code == "def f(x):\n    return x + 1  # pass"
    assert "def f(x):\n    return x" in provider.prompts()[1]
    assert (
        provider.prompts()[1]
        .rstrip()
        .endswith("Continue the code exactly where it stops. Do not repeat what is there.")
    )


async def test_a13_a_complete_block_that_hit_the_limit_in_its_prose_is_retried_instead(ground: Ground) -> None:
    provider = ScriptedProvider(in_turn([Reply(FAIL + "\nThis code", "length"), PASS]))
    await run_session("s", task(), make_parts(ground.home, ground.store, provider))
    assert "Continue" not in provider.prompts()[1]
    assert "corrected code" in provider.prompts()[1]


async def test_a13_an_opaque_failure_is_diagnosed_by_the_model_before_the_retry(ground: Ground) -> None:
    opaque = "```python\n# opaque\n```"
    provider = ScriptedProvider(in_turn([opaque, "The sign is wrong. More text.", PASS]))
    result = await run_session("s", task(), make_parts(ground.home, ground.store, provider))
    first, diagnosing, retry = provider.prompts()
    assert "Say in one sentence" in diagnosing
    assert "AssertionError" in diagnosing
    assert "# opaque" in diagnosing
    assert "What is wrong: The sign is wrong.\n" in retry
    records = await ground.store.attempts("s")
    assert result.attempts == len(records) == 2
    assert records[0].diagnosis == "The sign is wrong."
    assert records[0].prompt_tokens == 20
    assert first != retry


async def test_no_diagnosis_is_asked_for_after_the_last_attempt(ground: Ground) -> None:
    provider = ScriptedProvider(in_turn(["```python\n# opaque\n```"]))
    await run_session("s", task(max_attempts=1), make_parts(ground.home, ground.store, provider))
    assert len(provider.requests) == 1


# --- the verdict ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "answer", "outcome"),
    [
        ({}, PASS, Outcome.VERIFIED),
        ({"in_process": True}, PASS, Outcome.VERIFIED_IN_PROCESS),
        ({"tests": None}, PASS, Outcome.SELF_CHECKED),
        ({"tests": None}, FAIL, Outcome.FAILED),
        ({"hidden_tests": "hidden"}, PASS, Outcome.FAILED),
        ({"hidden_tests": "hidden"}, HONEST, Outcome.VERIFIED),
        ({"tests": None, "hidden_tests": "hidden"}, HONEST, Outcome.VERIFIED),
    ],
)
async def test_given_tests_alone_decide_and_hidden_ones_above_all(
    ground: Ground, more: dict[str, object], answer: str, outcome: Outcome
) -> None:
    judge = FakeJudge()
    provider = ScriptedProvider(in_turn([answer]))
    parts = make_parts(ground.home, ground.store, provider, judge=judge)
    result = await run_session("s", task(max_attempts=2, **more), parts)
    assert result.outcome is outcome
    assert result.summary["final_tests_passed"] is (outcome in PASSING)
    shown = "\n".join(provider.prompts())
    assert "hidden" not in shown
    hidden = [checks for _, checks in judge.checked if checks is not None and checks.tests == "hidden"]
    assert len(hidden) == ("hidden_tests" in more)


async def test_cases_are_shown_named_and_checked(ground: Ground) -> None:
    suite = CaseSuite(function="add", items=(Case(args=(1, 2), kwargs={"c": "x"}, expected=[True, None]),))
    judge, provider = FakeJudge(), ScriptedProvider(in_turn([PASS]))
    parts = make_parts(ground.home, ground.store, provider, judge=judge)
    await run_session("s", task(tests=None, cases=suite, files={"lib.py": "y = 2"}), parts)
    (prompt,) = provider.prompts()
    assert "The program must define the function add." in prompt
    assert "add(1, 2, c='x') == [True, None]" in prompt
    assert "# lib.py\ny = 2" in prompt
    solution, checks = judge.checked[0]
    assert checks is not None
    assert checks.cases == suite
    assert (solution.entry_point, dict(solution.files)) == ("add", {"lib.py": "y = 2"})


async def test_a_judge_that_fails_is_an_error_and_no_attempt_and_resumes_without_asking_again(ground: Ground) -> None:
    provider = ScriptedProvider(in_turn(["```python\n# broken judge\n```"]))
    result = await run_session("s", task(), make_parts(ground.home, ground.store, provider))
    assert result.outcome is Outcome.ERROR
    assert "the sandbox is gone" in result.reason
    assert result.attempts == 0

    class Mended(FakeJudge):
        async def check(self, solution: object, checks: object) -> Verdict:
            del solution, checks
            return Verdict(True, Strength.VERIFIED, ran=1)

    parts = make_parts(ground.home, ground.store, provider, judge=Mended())
    result = await run_session("s", task(), parts)
    assert (result.outcome, result.attempts, len(provider.requests)) == (Outcome.VERIFIED, 1, 1)


@pytest.mark.parametrize("mode", [TaskMode.ATTEMPT, TaskMode.PROJECT])
async def test_a_judge_that_fails_on_the_hidden_tests_decides_nothing_and_a_resume_judges_again(
    ground: Ground, mode: TaskMode
) -> None:
    class Failing(FakeJudge):
        async def check(self, solution: Solution, checks: Checks) -> Verdict:
            if checks.tests == "hidden":
                return Verdict(False, Strength.NONE, infrastructure=True, error="the sandbox is gone")
            return await super().check(solution, checks)

    provider = ScriptedProvider(in_turn([HONEST]))
    judged = task(hidden_tests="hidden", mode=mode)
    result = await run_session("s", judged, make_parts(ground.home, ground.store, provider, judge=Failing()))
    assert (result.outcome, result.reason) == (Outcome.ERROR, "The judge failed: the sandbox is gone")
    assert "# honest" in result.code
    asked = len(provider.requests)
    result = await run_session("s", judged, make_parts(ground.home, ground.store, provider))
    assert (result.outcome, len(provider.requests)) == (Outcome.VERIFIED, asked)


async def test_a_model_server_that_fails_is_an_error_and_resumable(ground: Ground) -> None:
    provider = ScriptedProvider(in_turn([FAIL, ProviderError("gone"), PASS]))
    parts = make_parts(ground.home, ground.store, provider)
    result = await run_session("s", task(), parts)
    assert (result.outcome, result.reason, result.attempts) == (Outcome.ERROR, "gone", 1)
    result = await run_session("s", task(), parts)
    assert (result.outcome, result.attempts) == (Outcome.VERIFIED, 2)


async def test_an_overflowing_prompt_is_halved_once_then_fails_with_the_reason(ground: Ground) -> None:
    provider = ScriptedProvider(in_turn([ContextOverflowError(), PASS]))
    long = task(prompt="§" * 3000)
    result = await run_session("a", long, make_parts(ground.home, ground.store, provider))
    assert result.outcome is Outcome.VERIFIED
    assert [prompt.count("§") for prompt in provider.prompts()] == [3000, 2000]
    provider = ScriptedProvider(in_turn([ContextOverflowError("too long")]))
    result = await run_session("b", long, make_parts(ground.home, ground.store, provider))
    assert (result.outcome, result.reason, len(provider.requests)) == (Outcome.FAILED, "too long", 2)


# --- budget --------------------------------------------------------------------------------------------------


async def test_the_token_budget_stops_the_session_and_a_resume_goes_on(ground: Ground) -> None:
    provider = ScriptedProvider(in_turn([FAIL, PASS]))
    config = defaults(budget_tokens=15)
    with pytest.raises(BudgetExceededError, match="15 tokens"):
        await run_session("s", task(), make_parts(ground.home, ground.store, provider, config=config))
    assert len(provider.requests) == 1
    result = await run_session("s", task(), make_parts(ground.home, ground.store, provider, config=config))
    assert (result.outcome, result.attempts, len(provider.requests)) == (Outcome.VERIFIED, 2, 2)


async def test_the_token_budget_also_cuts_an_answer_while_it_streams(ground: Ground) -> None:
    provider = ScriptedProvider(in_turn([FAIL]))
    config = defaults(budget_tokens=2)
    with pytest.raises(BudgetExceededError):
        await run_session("s", task(), make_parts(ground.home, ground.store, provider, config=config))
    assert provider.closed_early == 1, "the generation on the server must be cancelled"
    assert await ground.store.attempts("s") == ()


async def test_the_streamed_pieces_are_the_answer(ground: Ground) -> None:
    provider, told = ScriptedProvider(in_turn([PASS])), Told()
    await run_session("s", task(), make_parts(ground.home, ground.store, provider, report=told))
    assert "".join(chunk.text for chunk in told.chunks) == PASS
    assert {(chunk.phase, chunk.attempt) for chunk in told.chunks} == {(PhaseName.ATTEMPT, 1)}


async def test_text_that_no_database_can_hold_is_made_harmless(ground: Ground) -> None:
    provider = ScriptedProvider(in_turn(["```python\n# pass \ud800 \0\n```"]))
    await run_session("s", task(), make_parts(ground.home, ground.store, provider))
    (record,) = await ground.store.attempts("s")
    assert record.code == "# pass ? \N{REPLACEMENT CHARACTER}"


async def test_running_a_finished_session_again_gives_the_same_result_and_asks_nothing(ground: Ground) -> None:
    provider = ScriptedProvider(in_turn([FAIL, PASS]))
    parts = make_parts(ground.home, ground.store, provider)
    first = await run_session("s", task(), parts)
    assert await run_session("s", task(), parts) == first
    assert len(provider.requests) == 2
