"""Sessions on top of jobs, and the log that replays to them (A91)."""

from __future__ import annotations

from dataclasses import asdict

import pytest
from support.engine_parts import Parts

from engine.api_models import Outcome, PhaseName, PhaseStatus, RunState, SessionCreate, SessionRecord, TaskSpec
from engine.errors import ConflictError, LeaseLostError, NotFoundError
from engine.events import replay_state
from engine.jobs import Jobs
from engine.sessions import Changes, Query
from registry.crash import POINTS


def body(name: str = "t", run_id: str | None = None) -> SessionCreate:
    return SessionCreate(task=TaskSpec(id=name, prompt="add two numbers"), run_id=run_id)


DONE = Changes(
    outcome=Outcome.VERIFIED,
    phases=(PhaseStatus(phase=PhaseName.CODE, state="done", iterations=2, score=1.0),),
    attempts=2,
    tokens=40,
    seconds=1.5,
    backend="scripted",
    model="m",
    sandbox_level="strict",
    code="print(1)\n",
    summary={"session_id": "s", "final_tests_passed": True, "subtasks": [{"name": "a", "score": 0.5}]},
)


async def test_a_session_and_its_job_are_created_together(parts: Parts) -> None:
    record = await parts.sessions.create(body("t", "batch"))
    assert record.id.startswith("rune-") and len(record.id) == 13
    assert (record.state, record.run_id, record.code) == (RunState.QUEUED, "batch", None)
    assert await parts.sessions.get(record.id) == record
    subjects = [event.subject for event in await parts.journal.replay()]
    assert subjects == [f"job/{record.id}", f"session/{record.id}"]


async def test_an_unknown_session_is_not_found(parts: Parts) -> None:
    for call in (parts.sessions.get, parts.sessions.cancel, parts.sessions.resume):
        with pytest.raises(NotFoundError):
            await call("rune-00000000")
    with pytest.raises(NotFoundError):
        await parts.sessions.update("rune-00000000", DONE)


async def test_finish_stores_result_and_state_in_one_event(parts: Parts) -> None:
    record = await parts.sessions.create(body())
    claimed = await parts.sessions.claim()
    assert claimed is not None and claimed[1].state is RunState.RUNNING
    before = await parts.journal.last_sequence()
    await parts.sessions.finish(claimed[0], RunState.SUCCEEDED, "", DONE)
    events = await parts.journal.replay(before)
    assert [event.subject for event in events] == [f"job/{record.id}", f"session/{record.id}"]
    after = await parts.sessions.get(record.id)
    assert (after.state, after.outcome, after.code, after.phases, after.summary) == (
        RunState.SUCCEEDED,
        Outcome.VERIFIED,
        "print(1)\n",
        DONE.phases,
        DONE.summary,
    )
    with pytest.raises(LeaseLostError):
        await parts.sessions.finish(claimed[0], RunState.FAILED, "late", Changes(code="other"))
    assert await parts.sessions.get(record.id) == after


async def test_progress_that_says_nothing_new_writes_nothing(parts: Parts) -> None:
    record = await parts.sessions.create(body())
    await parts.sessions.update(record.id, DONE)
    before = await parts.journal.last_sequence()
    await parts.sessions.update(record.id, DONE)
    await parts.sessions.update(record.id, Changes())
    assert await parts.journal.last_sequence() == before


async def test_pages_are_newest_first_filtered_and_without_code_and_summary(parts: Parts) -> None:
    made = [await parts.sessions.create(body(f"t{n}", "even" if n % 2 == 0 else None)) for n in range(6)]
    await parts.sessions.update(made[0].id, DONE)
    await parts.sessions.cancel(made[5].id)

    async def tasks(query: Query) -> list[str]:
        return [record.task.id for record in await parts.sessions.page(query)]

    assert await tasks(Query()) == ["t5", "t4", "t3", "t2", "t1", "t0"]
    assert await tasks(Query(run_id="even")) == ["t4", "t2", "t0"]
    assert await tasks(Query(state=RunState.CANCELLED)) == ["t5"]
    assert await tasks(Query(limit=2, offset=1)) == ["t4", "t3"]
    assert await tasks(Query(since=made[3].created_at)) == ["t5", "t4", "t3"]
    assert all(record.code is None and record.summary is None for record in await parts.sessions.page(Query()))
    counts = await parts.sessions.counts()
    assert (counts[RunState.QUEUED], counts[RunState.CANCELLED], counts[RunState.RUNNING]) == (5, 1, 0)


async def test_cancel_and_resume_follow_the_job(parts: Parts) -> None:
    record = await parts.sessions.create(body())
    cancelled = await parts.sessions.cancel(record.id)
    assert (cancelled.state, cancelled.outcome) == (RunState.CANCELLED, Outcome.CANCELLED)
    resumed = await parts.sessions.resume(record.id)
    assert (resumed.state, resumed.outcome, resumed.finished_at) == (RunState.QUEUED, None, None)
    with pytest.raises(ConflictError):
        await parts.sessions.resume(record.id)
    await parts.sessions.claim()
    asked = await parts.sessions.cancel(record.id)
    assert (asked.state, asked.reason) == (RunState.RUNNING, "cancel requested")
    before = await parts.journal.last_sequence()
    assert await parts.sessions.cancel(record.id) == asked
    assert await parts.journal.last_sequence() == before


async def test_a_batch_s_sessions_wait_after_a_crash_and_others_restart(parts: Parts) -> None:
    alone = await parts.sessions.create(body("alone"))
    batch = await parts.sessions.create(body("batch", "run1"))
    await parts.sessions.claim()
    await parts.sessions.claim()
    moved = await parts.restarted("second").recover()
    assert {record.id: record.state for record in moved} == {
        alone.id: RunState.QUEUED,
        batch.id: RunState.INTERRUPTED,
    }


async def test_a91_the_log_replays_to_the_tables(parts: Parts) -> None:
    """A life with everything in it; the fold of the log is the rows, of sessions and of jobs."""
    made = [await parts.sessions.create(body(f"t{n}", "run" if n == 3 else None)) for n in range(6)]
    for state in (RunState.SUCCEEDED, RunState.FAILED):
        claimed = await parts.sessions.claim()
        assert claimed is not None
        await parts.sessions.update(claimed[0].job_id, Changes(attempts=1, tokens=7, phases=DONE.phases))
        await parts.sessions.finish(claimed[0], state, "why", DONE)
    await parts.sessions.resume(made[1].id)
    await parts.sessions.cancel(made[2].id)
    await parts.sessions.claim()
    await parts.sessions.cancel(made[1].id)
    await parts.sessions.claim()
    await parts.restarted("second").recover()
    state = replay_state([event async for page in parts.journal.pages() for event in page])
    for record in made:
        now = await parts.sessions.get(record.id)
        job = await parts.db.read(lambda reader, record=record: parts.jobs.get(reader, record.id))
        assert SessionRecord.model_validate(state[f"session/{record.id}"]) == now
        assert state[f"job/{record.id}"] == asdict(job)
    assert len(state) == 2 * len(made)


async def test_control_a_change_without_its_event_is_caught(parts: Parts) -> None:
    """Negative control: a write that forgets its event makes log and table differ."""
    record = await parts.sessions.create(body())
    await parts.db.write(lambda tx: tx.execute("UPDATE sessions SET attempts = 1"))
    state = replay_state(await parts.journal.replay())
    now = await parts.sessions.get(record.id)
    assert SessionRecord.model_validate(state[f"session/{record.id}"]) != now


async def test_an_id_that_is_taken_is_not_given_again(parts: Parts) -> None:
    first = await parts.sessions.create(body())
    ids = iter([first.id.removeprefix("rune-"), "ffffffff"])
    parts.clock.hex_id = lambda digits: next(ids)  # type: ignore[method-assign]
    assert (await parts.sessions.create(body())).id == "rune-ffffffff"


def test_d2_every_durable_step_of_a_job_has_its_crash_point() -> None:
    assert {"job.after_claim", "job.before_finish", "job.after_finish", "session.after_create"} <= POINTS
    assert Jobs.__doc__
