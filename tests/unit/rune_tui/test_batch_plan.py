"""What a batch does with each task, run ids, counts and exit codes: pure decisions."""

from __future__ import annotations

from pathlib import Path

import pytest
from batch_samples import session, task
from hypothesis import given
from hypothesis import strategies as st

from engine.api_models import Outcome, RunState
from engine.errors import ExitCode
from rune_tui.batch_plan import Move, last_run, plan, run_name
from rune_tui.batch_records import count, exit_code, task_result


@pytest.mark.parametrize(
    ("state", "outcome", "move"),
    [
        (RunState.SUCCEEDED, Outcome.VERIFIED, Move.FINISHED),
        (RunState.SUCCEEDED, Outcome.VERIFIED_IN_PROCESS, Move.FINISHED),
        (RunState.SUCCEEDED, Outcome.SELF_CHECKED, Move.FINISHED),
        (RunState.SUCCEEDED, Outcome.FAILED, Move.FINISHED),
        (RunState.SUCCEEDED, Outcome.ERROR, Move.START),
        (RunState.FAILED, Outcome.ERROR, Move.RESUME),
        (RunState.CANCELLED, Outcome.CANCELLED, Move.RESUME),
        (RunState.INTERRUPTED, None, Move.RESUME),
        (RunState.QUEUED, None, Move.FOLLOW),
        (RunState.RUNNING, None, Move.FOLLOW),
    ],
)
def test_resume_repeats_no_finished_task_and_goes_on_with_the_others(
    state: RunState, outcome: Outcome | None, move: Move
) -> None:
    last = session(state=state, outcome=outcome)
    (step,) = plan([task()], [last])
    assert step.move is move
    assert (step.session is None) == (move is Move.START)


def test_every_state_is_decided() -> None:
    for state in RunState:
        assert plan([task()], [session(state=state)])


def test_a_changed_task_runs_anew_down_to_the_type_of_a_value() -> None:
    def with_expected(value: object):
        return task(cases={"function": "f", "items": [{"expected": value}]})

    last = session(task=with_expected(1))
    assert plan([with_expected(1)], [last])[0].move is Move.FINISHED
    assert plan([with_expected(True)], [last])[0].move is Move.START
    assert plan([task(seed=1)], [session()])[0].move is Move.START


def test_the_newest_session_of_a_task_counts_and_the_order_is_the_input_s() -> None:
    sessions = [
        session("b", state=RunState.CANCELLED),
        session("a", id="new"),
        session("a", id="old", state=RunState.CANCELLED),
    ]
    steps = plan([task("a"), task("b"), task("c")], sessions)
    assert [(step.task.id, step.move) for step in steps] == [
        ("a", Move.FINISHED),
        ("b", Move.RESUME),
        ("c", Move.START),
    ]
    assert steps[0].session is not None and steps[0].session.id == "new"


@given(st.integers(0, 5000))
async def test_the_last_run_is_found_in_few_questions(last: int) -> None:
    asked: list[int] = []

    async def exists(number: int) -> bool:
        asked.append(number)
        return number <= last

    assert await last_run(exists) == last
    assert len(asked) <= 2 * (last.bit_length() + 1)


def test_run_ids_follow_from_the_path_and_fit_the_api() -> None:
    one, other = run_name(Path("/a/tasks.jsonl"), 1), run_name(Path("/b/tasks.jsonl"), 1)
    assert one == run_name(Path("/a/tasks.jsonl"), 1) != other
    assert one.startswith("batch-") and one.endswith("-1") and len(one) == len("batch-12345678-1")


@pytest.mark.parametrize(
    ("outcomes", "tasks", "interrupted", "expected"),
    [
        ([Outcome.VERIFIED], 1, False, ExitCode.OK),
        ([Outcome.VERIFIED, Outcome.VERIFIED_IN_PROCESS], 2, False, ExitCode.OK),
        ([Outcome.VERIFIED, Outcome.SELF_CHECKED], 2, False, ExitCode.NOT_VERIFIED),
        ([Outcome.VERIFIED, Outcome.FAILED], 2, False, ExitCode.NOT_VERIFIED),
        ([Outcome.VERIFIED, Outcome.CANCELLED], 2, False, ExitCode.NOT_VERIFIED),
        ([Outcome.VERIFIED, Outcome.ERROR], 2, False, ExitCode.NOT_VERIFIED),
        ([Outcome.VERIFIED], 2, False, ExitCode.NOT_VERIFIED),
        ([Outcome.ERROR, Outcome.ERROR], 2, False, ExitCode.ENVIRONMENT),
        ([Outcome.VERIFIED], 1, True, ExitCode.INTERRUPTED),
        ([], 3, True, ExitCode.INTERRUPTED),
    ],
)
def test_exit_codes(outcomes: list[Outcome], tasks: int, interrupted: bool, expected: ExitCode) -> None:
    results = [task_result(session(str(number), outcome=outcome)) for number, outcome in enumerate(outcomes)]
    counts = count(results, tasks)
    assert exit_code(counts, interrupted=interrupted) is expected
    record = counts.record(run_id="r", seconds=1.0, interrupted=interrupted)
    assert record["exit_code"] == expected
    named = ("verified", "verified_in_process", "self_checked", "failed", "error", "cancelled", "not_run")
    assert sum(getattr(counts, name) for name in named) == tasks


def test_a_task_record_has_every_promised_key() -> None:
    record = task_result(session(state=RunState.INTERRUPTED, outcome=None), resumed=True).record()
    promised = {"type", "id", "outcome", "attempts", "tokens", "seconds", "adapter", "backend", "sandbox_level"}
    assert promised | {"model", "adapter_reason", "session", "reason", "resumed"} == set(record)
    assert (record["type"], record["outcome"], record["resumed"]) == ("task", "cancelled", True)
