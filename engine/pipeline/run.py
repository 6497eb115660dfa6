"""Runs one session, from wherever it stands to its end. The pipeline's only door.

What ends a session, and what it leaves:

    ran to its end             SessionResult; running it again gives the same result without doing anything
    model server or judge down SessionResult with the outcome `error`; resumable
    budget spent               BudgetExceededError; resumable with a new budget
    cancelled, paused          CancelledError; resumable
    SIGKILL                    resumable

Resumable: `run_session` with the same id and task goes on from the last finished step. An attempt that was recorded is
neither repeated nor recorded again, and seeds hang on places, not on time, so the result is that of an undisturbed run.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from engine.api_models import PASSING, AttemptRecord, Outcome, PhaseName, PhaseStatus, TaskMode, TaskSpec
from engine.errors import BudgetExceededError, ContextOverflowError, EnvironmentUnfitError, ProviderError
from engine.evaluation.verdict import Strength, Verdict
from engine.pipeline.attempt import JudgeFailedError
from engine.pipeline.graph import begun_state, decided_verdict, open_checkpoints, run_graph, status_of
from engine.pipeline.limits import TokenBudget
from engine.pipeline.parts import Parts, SessionResult
from engine.pipeline.reflect import reflect
from engine.pipeline.state import SessionState
from engine.pipeline.summary import build_summary
from engine.pipeline.work import Work

if TYPE_CHECKING:
    from langgraph.checkpoint.base import BaseCheckpointSaver

__all__ = ["initial_phases", "run_session"]

_OUTCOMES = {
    Strength.VERIFIED: Outcome.VERIFIED,
    Strength.IN_PROCESS: Outcome.VERIFIED_IN_PROCESS,
    Strength.SELF_CHECKED: Outcome.SELF_CHECKED,
}
_PROJECT_PHASES = (PhaseName.DECOMPOSE, PhaseName.PLAN, PhaseName.CODE, PhaseName.INTEGRATE)


def initial_phases(task: TaskSpec) -> tuple[PhaseStatus, ...]:
    """The phases that a new session shows as waiting; diagnose and repair come only if they are needed."""
    phases = _PROJECT_PHASES if task.mode is TaskMode.PROJECT else (PhaseName.ATTEMPT,)
    return tuple(PhaseStatus(phase=phase, state="waiting") for phase in phases)


async def run_session(session_id: str, task: TaskSpec, parts: Parts) -> SessionResult:
    """Run the session to its end.

    Raises:
        BudgetExceededError: seconds or tokens are spent; resumable.
        asyncio.CancelledError: stopped; resumable.
    """
    async with open_checkpoints(parts.checkpoints) as saver:
        work = _work(session_id, task, parts, saver)
        try:
            state = await _within_time(work)
        except ContextOverflowError as error:
            return await _stopped(work, Outcome.FAILED, str(error))
        except (ProviderError, EnvironmentUnfitError, JudgeFailedError) as error:
            return await _stopped(work, Outcome.ERROR, str(error))
        return await _finished(work, state)


def _work(session_id: str, task: TaskSpec, parts: Parts, saver: BaseCheckpointSaver[str] | None) -> Work:
    tokens = TokenBudget(parts.pipeline.budget_tokens)
    return Work(session_id, task, parts, tokens, saver, asyncio.Semaphore(parts.parallel))


async def _within_time(work: Work) -> SessionState:
    seconds = work.parts.pipeline.budget_seconds
    with work.parts.stopwatch.limited(seconds) as limit:
        try:
            async with limit:
                return await run_graph(work)
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise BudgetExceededError(
                f"The budget of {seconds:g} seconds is spent. Resume the session, or raise pipeline.budget_seconds."
            ) from error


async def _finished(work: Work, state: SessionState) -> SessionResult:
    verdict = decided_verdict(state)
    outcome, reason = outcome_of(state, verdict)
    return await _result(work, state, outcome, reason, verdict)


async def _stopped(work: Work, outcome: Outcome, reason: str) -> SessionResult:
    """A session that cannot go on now: what it came to so far stands, and it can be resumed."""
    return await _result(work, await begun_state(work), outcome, reason, verdict=None)


async def _result(
    work: Work, state: SessionState, outcome: Outcome, reason: str, verdict: Verdict | None
) -> SessionResult:
    program = state.get("program")
    attempts = await work.parts.store.attempts(work.session_id)
    passed = outcome in PASSING
    return SessionResult(
        outcome=outcome,
        reason=reason,
        code=program["code"] if program is not None else "",
        summary=build_summary(work.session_id, work.task, state, passed=passed, adapter=work.parts.adapter),
        attempts=len(attempts),
        tokens=_tokens(attempts),
        sandbox_level=sandbox_level(verdict, attempts),
        phases=_statuses(state),
    )


def outcome_of(state: SessionState, verdict: Verdict | None) -> tuple[Outcome, str]:
    """How a session that ran to its end ended, and why it is not verified. Pure.

    Given tests alone decide; tests that the model wrote itself can make it `self-checked` at best; a judge that failed
    says nothing about the solution.
    """
    if state.get("failure"):
        return Outcome.FAILED, state.get("failure", "")
    program = state.get("program")
    if verdict is None or program is None:
        return Outcome.FAILED, "No attempt gave any code."
    if verdict.infrastructure:
        return Outcome.ERROR, verdict.error or "The judge failed."
    if verdict.passed:
        return _OUTCOMES[verdict.strength], ""
    return Outcome.FAILED, reflect(verdict, program["code"]).diagnosis or "The tests do not pass."


def sandbox_level(verdict: Verdict | None, attempts: tuple[AttemptRecord, ...]) -> str:
    """The level of the deciding run, else of the last attempt that was run."""
    if verdict is not None and verdict.sandbox_level:
        return verdict.sandbox_level
    return next((record.sandbox_level for record in reversed(attempts) if record.sandbox_level), "")


def _statuses(state: SessionState) -> tuple[PhaseStatus, ...]:
    return tuple(status_of(PhaseName(name), data) for name, data in state.get("phases", {}).items())


def _tokens(attempts: tuple[AttemptRecord, ...]) -> int:
    return sum(record.prompt_tokens + record.completion_tokens for record in attempts)
