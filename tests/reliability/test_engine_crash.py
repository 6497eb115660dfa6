"""★D2 for jobs and sessions: a real engine process dies at each named point, and the next one loses nothing (P1).

Each point is passed on the way of one real session: the scripted model server, the sandbox and the judge are real.
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.engine_process import Process, process

from engine.api_models import Event, RunState, SessionRecord
from engine.events import replay_state
from registry.crash import POINTS

TASK = {
    "task": {
        "id": "add",
        "prompt": "Write a function add(a, b) that returns the sum of a and b.",
        "cases": {"function": "add", "items": [{"args": [1, 2], "expected": 3}]},
        "mode": "attempt",
        "max_attempts": 1,
    }
}
CRASHES = ("session.after_create", "job.after_claim", "job.before_finish", "job.after_finish")
PHASES = ("session.before_phase", "session.after_phase")


def submit(engine: Process) -> str | None:
    """The id of an accepted session; None if the engine died before it could answer."""
    try:
        return str(engine.http.post("/sessions", json=TASK).json()["id"])
    except httpx.TransportError:
        return None


def events(engine: Process) -> list[Event]:
    lines = engine.http.get("/events", params={"follow": 0}).text.splitlines()
    return [Event.model_validate_json(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]


def wait_for_end(engine: Process) -> dict[str, Any]:
    """The only session, once it has ended."""
    with engine.http.stream("GET", "/events", timeout=150) as stream:
        for line in stream.iter_lines():
            if '"state":"succeeded"' in line or '"state":"failed"' in line:
                break
    [session] = engine.http.get("/sessions").json()
    return dict(engine.http.get(f"/sessions/{session['id']}").json())


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("point", [*CRASHES, *PHASES])
def test_d2_killed_at_a_named_point_the_session_ends_once_and_the_log_agrees(home: Path, point: str) -> None:
    with process(home, env={"RUNE_CRASH_AT": f"{point}:1"}) as engine:
        engine.wait_ready()
        accepted = submit(engine)
        assert engine.end() == -signal.SIGKILL, "the point was not passed"
    with process(home) as engine:
        engine.wait_ready()
        session = wait_for_end(engine)
        log = events(engine)
        trajectory = engine.http.get(f"/sessions/{session['id']}/trajectory").json()
    assert accepted in (None, session["id"])
    assert (session["state"], session["outcome"]) == (RunState.SUCCEEDED, "verified")
    assert [attempt["number"] for attempt in trajectory["attempts"]] == [1]
    ended = [event for event in log if event.payload.get("state") == "succeeded"]
    assert [event.subject.partition("/")[0] for event in ended] == ["job", "session"], "published exactly once"
    state = replay_state(log)
    assert SessionRecord.model_validate(state[f"session/{session['id']}"]) == SessionRecord.model_validate(session)


def test_d2_the_points_of_this_file_are_all_there_are_of_jobs_and_sessions() -> None:
    ours = {point for point in POINTS if point.startswith(("job.", "session."))}
    assert ours == {*CRASHES, *PHASES}


@pytest.mark.timeout(400)
def test_c4_after_sigkill_the_next_engine_starts_at_once(home: Path) -> None:
    for _ in range(3):
        with process(home) as engine:
            engine.wait_ready()
            engine.kill()
    with process(home) as engine:
        engine.wait_ready()


@pytest.mark.timeout(400)
def test_d5_a_damaged_database_is_one_sentence_and_exit_3_each_time(home: Path) -> None:
    with process(home) as engine:
        engine.wait_ready()
        engine.http.post("/shutdown")
        assert engine.end() == 0
    (home / "rune.db").write_bytes(b"this is not a database" * 100)
    for _ in range(2):
        with process(home) as engine:
            assert engine.end() == 3
            said = engine.stderr()
        assert "is damaged" in said and len(said.splitlines()) == 1
