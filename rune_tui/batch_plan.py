"""Decides what a batch does with each task: pure, from the tasks and the sessions of the last run.

last session of the task            decision
------------------------------      ------------------------------------------------
none, or the task has changed       START    a new session
succeeded or failed with outcome    FINISHED reported again, never repeated
queued or running                   FOLLOW   an engine works on it already
cancelled or interrupted            RESUME   goes on after its last finished step
ended in error                      RESUME   the environment failed, not the solution
ended well, yet has no outcome      START    there is nothing to report again
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from engine.api_models import Outcome, RunState, SessionRecord, TaskSpec

MAX_RUNS = 1 << 20
"""Runs of one input; the search for the last one doubles up to here and no further."""


class Move(StrEnum):
    """What to do with a task."""

    START = "start"
    FOLLOW = "follow"
    RESUME = "resume"
    FINISHED = "finished"


@dataclass(frozen=True)
class Step:
    """A task and what to do with it."""

    task: TaskSpec
    move: Move
    session: SessionRecord | None = None
    """The session of the last run; None exactly for START."""


def task_digest(task: TaskSpec) -> str:
    """64 hexadecimal digits that change when anything in the task does, the type of a JSON value included."""
    return hashlib.sha256(task.model_dump_json().encode()).hexdigest()


def run_prefix(source: Path) -> str:
    """The same for every run of one input file, and for no other file on this machine."""
    return f"batch-{hashlib.sha256(str(source).encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"


def run_name(source: Path, number: int) -> str:
    """Id of the `number`-th run (from 1) of the input file."""
    return f"{run_prefix(source)}-{number}"


async def last_run(exists: Callable[[int], Awaitable[bool]]) -> int:
    """The highest run number there is, 0 for none: runs are numbered without gaps, so doubling and halving find it."""
    high = 1
    while high <= MAX_RUNS and await exists(high):
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if await exists(middle) else (low, middle)
    return low


def plan(tasks: Sequence[TaskSpec], sessions: Iterable[SessionRecord]) -> tuple[Step, ...]:
    """One step a task, in the order of the tasks.

    Args:
        sessions: those of the last run, newest first; empty for a fresh start.
    """
    newest: dict[str, SessionRecord] = {}
    for session in sessions:
        newest.setdefault(session.task.id, session)
    return tuple(_step(task, newest.get(task.id)) for task in tasks)


def _step(task: TaskSpec, session: SessionRecord | None) -> Step:
    if session is None or task_digest(session.task) != task_digest(task):
        return Step(task, Move.START)
    match session.state:
        case RunState.QUEUED | RunState.RUNNING:
            return Step(task, Move.FOLLOW, session)
        case RunState.CANCELLED | RunState.INTERRUPTED | RunState.FAILED:
            return Step(task, Move.RESUME, session)
        case RunState.SUCCEEDED:
            again = session.outcome in (None, Outcome.ERROR)
            return Step(task, Move.START) if again else Step(task, Move.FINISHED, session)
