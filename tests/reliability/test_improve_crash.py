"""The closed loop under kill -9: whatever step of a round its engine dies in, the round ends as it would have ended.

Real engines, model server (scripted), sandbox, explorer, judge, queue, registry and evidence, and one operation that
is killed in each of its steps in turn, so that each engine also has to live with what all the others left. Only the
trainer child learns nothing.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.improve_place import GATE, TRAIN, Loop, lived, make_loop, twice

from registry.crash import POINTS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    # A connection to an engine that dies in that moment is left to the garbage collector by the HTTP library.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

ASKED = "operation.after_create"
SESSIONS = ("session.after_create:3", "job.before_finish:3", "attempt.after_record:2")
REHEARSAL = ("operation.after_create", "operation.after_claim:2", "job.before_finish", "job.after_finish")
TRAINING = (
    *("training.after_enqueue", "training.after_spawn", "training.before_publish"),
    *("publish.in_transaction", "publish.after_commit"),
)
EVIDENCE = (
    *("operation.after_create", "operation.after_claim:2", "evaluation.after_sample:5", "evaluation.after_report:2"),
)
PROMOTION = ("promotion.in_transaction", "promotion.after_commit")
END = ("job.before_finish",)
LIVES = (*SESSIONS, *REHEARSAL, *TRAINING, *EVIDENCE, *PROMOTION, *END)


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Loop]:
    """A home with a suite; nobody of it is left when the test ends."""
    made = make_loop(tmp_path / "p")
    yield made
    made.place.end_all()
    gc.collect()  # while those warnings are nobody's, and not in the test that comes next


def begun(loop: Loop, crash_at: str) -> None:
    """Ask for a round of an engine that dies at that point; it may die before it answers."""
    with loop.engine(crash_at) as engine:
        engine.wait_ready()
        try:
            loop.begin(engine)
        except httpx.TransportError:
            assert crash_at == ASKED
        assert engine.end() == -9, f"{crash_at} was never passed"


def stopped(loop: Loop) -> None:
    """An engine that is asked to stop while sessions run: what it takes back is taken up again as after a kill."""
    with loop.engine() as engine:
        loop.go_on(engine)
        engine.until(lambda: len(engine.http.get("/sessions").json()) >= 2)
        engine.http.post("/shutdown")
        assert engine.end() == 0, engine.stderr()


def came_to(report: dict[str, Any]) -> dict[str, Any]:
    """What must be the same, whenever it was killed: no ids, no seed that follows from a digest."""
    (one,) = report["rounds"]
    counts = {name: one[name] for name in ("number", "solved_by_model", "solved_by_explorer", "promoted")}
    evidence = {name: one["evidence"][name] for name in ("verdict", "tasks", "wins", "losses", "incumbent")}
    return {**counts, **evidence, "in use": report["adapter_id"] == one["adapter_id"]}


def test_killed_in_each_of_its_steps_it_does_nothing_twice_and_promotes_once(loop: Loop) -> None:
    assert {point.partition(":")[0] for point in (ASKED, *LIVES)} <= POINTS
    begun(loop, ASKED)
    stopped(loop)
    for crash_at in LIVES:
        assert lived(loop, crash_at), f"{crash_at} was never passed"
        assert loop.place.survivors() == [], f"somebody outlived the engine that died at {crash_at}"
    with loop.engine() as engine:
        loop.go_on(engine)
        ended = loop.until_ended(engine)
        assert ended["state"] == "succeeded", ended
        assert came_to(ended["result"]) == {
            "number": 1, "solved_by_model": 0, "solved_by_explorer": TRAIN, "promoted": True,
            "verdict": "proven", "tasks": GATE, "wins": GATE, "losses": 0, "incumbent": "base", "in use": True,
        }  # fmt: skip
        assert twice(engine) == []
        (rehearsal,) = engine.http.get("/operations", params={"kind": "rehearse"}).json()
        (job,) = engine.jobs()
        assert (rehearsal["state"], job["request"]["rehearsal"]) == ("succeeded", rehearsal["id"])
        (adapter,) = engine.adapters()
        (move,) = engine.http.get(f"/adapters/{adapter}/promotions").json()
        assert (move["forced"], move["evidence"]["verdict"]) == (False, "proven")
        assert engine.http.get("/aliases").json() == {"kit@champion": adapter}


def test_control_a_run_that_forgets_its_sessions_solves_tasks_twice(loop: Loop) -> None:
    """Negative control: sessions that are not known by their run and task are made anew after the kill."""
    begun(loop, "job.before_finish:3")
    with loop.engine(broken="forgets sessions") as engine:
        loop.go_on(engine)
        engine.until(lambda: bool(engine.jobs()))
        assert any(what.startswith("solved twice") for what in twice(engine))


def test_control_operations_that_are_not_known_by_their_request_are_asked_for_twice(loop: Loop) -> None:
    """Negative control: what the dead engine asked for is not found again."""
    begun(loop, "evaluation.after_sample:5")
    with loop.engine(broken="forgets operations") as engine:
        loop.go_on(engine)
        engine.until(lambda: {"rehearsed twice", "measured twice"} <= set(twice(engine)))
