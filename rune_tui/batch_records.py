"""What a batch says on stdout: plain records, their counts, and the exit code that follows from them.

Three kinds, one JSON object a line: `launch` first, a `task` as each ends, `done` last.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from engine.api_models import EngineStatus, Outcome, RunState, SessionRecord
from engine.errors import ExitCode


@dataclass(frozen=True)
class TaskResult:
    """How one task ended."""

    id: str
    outcome: Outcome
    attempts: int
    tokens: int
    seconds: float
    adapter: str | None
    adapter_reason: str
    """Why it was worked on with that adapter, or with none."""
    backend: str
    model: str
    sandbox_level: str
    session: str
    reason: str
    resumed: bool
    """Ended in an earlier run of the same batch; not repeated."""

    def record(self) -> dict[str, object]:
        """The line on stdout."""
        return {"type": "task", **asdict(self)}


def task_result(session: SessionRecord, *, resumed: bool = False) -> TaskResult:
    """What a session that has ended says of its task."""
    return TaskResult(
        id=session.task.id,
        outcome=_outcome(session),
        attempts=session.attempts,
        tokens=session.tokens,
        seconds=round(session.seconds, 3),
        adapter=session.adapter,
        adapter_reason=session.adapter_reason,
        backend=session.backend,
        model=session.model,
        sandbox_level=session.sandbox_level,
        session=session.id,
        reason=session.reason,
        resumed=resumed,
    )


def _outcome(session: SessionRecord) -> Outcome:
    if session.state in (RunState.CANCELLED, RunState.INTERRUPTED):
        return Outcome.CANCELLED
    return session.outcome or Outcome.ERROR


def launch_record(status: EngineStatus, *, run_id: str, source: str, tasks: int, embedded: bool) -> dict[str, object]:
    """The first line."""
    return {
        "type": "launch",
        "version": status.version,
        "run_id": run_id,
        "input": source,
        "tasks": tasks,
        "home": status.home,
        "engine": "embedded" if embedded else "running",
        "backend": status.backend,
        "model": status.model,
        "sandbox_level": status.sandbox_level,
        "sandbox_reason": status.sandbox_reason,
    }


@dataclass(frozen=True)
class Counts:
    """The whole batch in numbers; the outcomes and `not_run` add up to `tasks`."""

    tasks: int
    verified: int
    verified_in_process: int
    self_checked: int
    failed: int
    error: int
    cancelled: int
    not_run: int
    resumed: int

    def record(self, *, run_id: str, seconds: float, interrupted: bool) -> dict[str, object]:
        """The last line."""
        return {
            "type": "done",
            **asdict(self),
            "run_id": run_id,
            "seconds": round(seconds, 3),
            "interrupted": interrupted,
            "exit_code": int(exit_code(self, interrupted=interrupted)),
        }


def count(results: Iterable[TaskResult], tasks: int) -> Counts:
    """Counts of the results so far; the tasks without one have not run."""
    listed = list(results)
    outcomes = Counter(result.outcome for result in listed)
    assert len(listed) <= tasks, "more results than tasks"
    return Counts(
        tasks=tasks,
        verified=outcomes[Outcome.VERIFIED],
        verified_in_process=outcomes[Outcome.VERIFIED_IN_PROCESS],
        self_checked=outcomes[Outcome.SELF_CHECKED],
        failed=outcomes[Outcome.FAILED],
        error=outcomes[Outcome.ERROR],
        cancelled=outcomes[Outcome.CANCELLED],
        not_run=tasks - len(listed),
        resumed=sum(result.resumed for result in listed),
    )


def exit_code(counts: Counts, *, interrupted: bool) -> ExitCode:
    """0 when every task passed, 3 when the environment let none run, 130 when stopped, 1 otherwise."""
    if interrupted:
        return ExitCode.INTERRUPTED
    if counts.verified + counts.verified_in_process == counts.tasks:
        return ExitCode.OK
    return ExitCode.ENVIRONMENT if counts.error == counts.tasks else ExitCode.NOT_VERIFIED
