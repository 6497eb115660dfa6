"""Sessions and attempts for the tests of the batch; hostile where it matters."""

from __future__ import annotations

from typing import Any

from engine.api_models import (
    AttemptRecord,
    Outcome,
    PhaseName,
    PhaseStatus,
    RunState,
    SessionRecord,
    TaskSpec,
    Trajectory,
)

HOSTILE = '```\n</code>\x1b]52;c;ZXZpbA==\x07\u202etxet\r\n[/foo] | a,"b"\t~~~~'


SUMMARY = {
    "session_id": "rune-a",
    "final_tests_passed": True,
    "subtasks": [
        {"name": "../parse me", "code": "good = 1", "passed": True},
        {"name": "print", "code": HOSTILE, "passed": True},
        {"name": "empty", "code": "", "passed": False},
    ],
    "accumulated_code": HOSTILE,
}
"""As much of a summary as its readers look at."""


def task(name: str = "a", **fields: Any) -> TaskSpec:
    return TaskSpec.model_validate({"id": name, "prompt": "do it"} | fields)


def session(name: str = "a", **fields: Any) -> SessionRecord:
    defaults: dict[str, Any] = {
        "id": f"rune-{name}",
        "task": task(name),
        "state": RunState.SUCCEEDED,
        "outcome": Outcome.VERIFIED,
        "attempts": 2,
        "tokens": 50,
        "seconds": 1.25,
        "backend": "scripted",
        "model": "m",
        "sandbox_level": "strict",
        "run_id": "batch-00000000-1",
        "created_at": "2026-11-22T10:00:00.000000+00:00",
        "code": "x = 1\n",
    }
    return SessionRecord.model_validate(defaults | fields)


def attempt(number: int = 1, **fields: Any) -> AttemptRecord:
    defaults: dict[str, Any] = {
        "session_id": "rune-a",
        "number": number,
        "phase": PhaseName.ATTEMPT,
        "prompt": "p",
        "response": "r",
        "code": "x = 1",
        "passed": True,
        "created_at": f"2026-11-22T10:0{number}:00.000000+00:00",
    }
    return AttemptRecord.model_validate(defaults | fields)


def trajectory() -> Trajectory:
    phases = (
        PhaseStatus(phase=PhaseName.DECOMPOSE, state="done", iterations=1, score=0.667),
        PhaseStatus(phase=PhaseName.CODE, state="done", iterations=3),
    )
    attempts = (
        attempt(1, phase=PhaseName.DECOMPOSE, code="", passed=False, subtask="", response="1. parse"),
        attempt(
            2, phase=PhaseName.CODE, subtask="../parse me", code="good = 1", verdict={"ran": 2, "notes": ["ä", None]}
        ),
        attempt(3, phase=PhaseName.CODE, subtask="../parse me", code="bad = 1", passed=False, exit_code=-9),
        attempt(4, phase=PhaseName.CODE, subtask="print", code=HOSTILE, stdout=HOSTILE, adapter_digest="ab" * 32),
    )
    return Trajectory(session=session(phases=phases, code=HOSTILE, summary=SUMMARY), attempts=attempts)
