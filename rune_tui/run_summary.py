"""`run_summary.json`: a session's trajectory, told by phase and by subtask. Texts are complete, never cut."""

from __future__ import annotations

from collections.abc import Sequence

from engine.api_models import AttemptRecord, PhaseName, Trajectory
from rune_tui.batch_records import PASSING

_CODING = frozenset({PhaseName.ATTEMPT, PhaseName.CODE, PhaseName.REPAIR})


def run_summary(trajectory: Trajectory) -> dict[str, object]:
    """The summary as plain JSON; its keys are those of the pipeline's specification (A16)."""
    session, attempts = trajectory.session, trajectory.attempts
    phases = {
        status.phase.value: {
            "state": status.state,
            "iterations": status.iterations,
            "score": status.score,
            "detail": status.detail,
        }
        for status in session.phases
    }
    return {
        "schema_version": trajectory.schema_version,
        "session_id": session.id,
        "task_id": session.task.id,
        "project_prompt": session.task.prompt,
        "outcome": session.outcome.value if session.outcome else None,
        "final_tests_passed": session.outcome in PASSING,
        "total_iterations": sum(status.iterations for status in session.phases),
        "attempts": session.attempts,
        "tokens": session.tokens,
        "seconds": session.seconds,
        "backend": session.backend,
        "model": session.model,
        "sandbox_level": session.sandbox_level,
        "reason": session.reason,
        "phases": phases,
        "subtasks": _subtasks(attempts),
        "adapters": _adapters(attempts, session.task.task_type),
        "accumulated_code": session.code,
        "evolution": {
            "phase_iterations": {status.phase.value: status.iterations for status in session.phases},
            "sweeps": 0,
            "best_adapters": [],
        },
    }


def subtask_code(attempts: Sequence[AttemptRecord]) -> dict[str, str]:
    """The last code of each subtask, by name; a passing attempt is never replaced by a failing one."""
    return {name: attempt.code for name, attempt in _best_by_subtask(attempts).items()}


def _best_by_subtask(attempts: Sequence[AttemptRecord]) -> dict[str, AttemptRecord]:
    best: dict[str, AttemptRecord] = {}
    for attempt in attempts:
        if not attempt.subtask or attempt.phase not in _CODING or not attempt.code:
            continue
        known = best.get(attempt.subtask)
        if known is None or attempt.passed or not known.passed:
            best[attempt.subtask] = attempt
    return best


def _subtasks(attempts: Sequence[AttemptRecord]) -> list[dict[str, object]]:
    return [
        {
            "name": name,
            "passed": attempt.passed,
            "attempts": sum(other.subtask == name and other.phase in _CODING for other in attempts),
            "code": attempt.code,
        }
        for name, attempt in _best_by_subtask(attempts).items()
    ]


def _adapters(attempts: Sequence[AttemptRecord], task_type: str) -> list[dict[str, object]]:
    used = {(attempt.adapter_digest, attempt.phase.value) for attempt in attempts if attempt.adapter_digest}
    return [{"adapter_id": digest, "task_type": task_type, "phase": phase} for digest, phase in sorted(used)]
