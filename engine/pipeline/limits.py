"""What one session may use: attempts of each phase, tokens, and time."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager, suppress

from engine.api_models import PhaseName
from engine.config import PipelineSection
from engine.errors import BudgetExceededError


def phase_cap(phase: PhaseName, settings: PipelineSection, run_override: int | None) -> int:
    """How often `phase` may try: its own setting, else the task's `max_attempts`, else the one for all.

    Zero and None mean "not given".
    """
    per_phase = {
        PhaseName.DECOMPOSE: settings.decompose_iterations,
        PhaseName.PLAN: settings.plan_iterations,
        PhaseName.CODE: settings.code_iterations,
        PhaseName.INTEGRATE: settings.integrate_iterations,
        PhaseName.REPAIR: settings.repair_iterations,
    }
    return per_phase.get(phase) or run_override or settings.max_attempts


class TokenBudget:
    """Tokens of one run: what the prompts and the answers cost together.

    A resumed session starts with a fresh budget, or it could never go on.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._spent = 0

    def spend(self, tokens: int) -> None:
        """Book a finished call, as the model server counted it."""
        assert tokens >= 0, "tokens are never given back"
        self._spent += tokens

    def check(self, pending: int = 0) -> None:
        """Stop here if the budget is used up.

        Args:
            pending: tokens of the answer that streams right now, not booked yet.

        Raises:
            BudgetExceededError: with the remedy.
        """
        if self._spent + pending >= self._limit:
            raise BudgetExceededError(
                f"The budget of {self._limit} tokens is spent. Resume the session, or raise pipeline.budget_tokens."
            )


class Stopwatch:
    """The session's time limit. It stands still while the session waits for a model that sleeps: a training job of
    an hour must not use up the half hour of a session that only waited for it."""

    def __init__(self) -> None:
        self._limit: asyncio.Timeout | None = None
        self._waiting = 0
        self._left = 0.0

    @contextmanager
    def limited(self, seconds: float) -> Generator[asyncio.Timeout]:
        """The limit for `async with`, known here as long as the block lasts."""
        self._limit = asyncio.timeout(seconds)
        try:
            yield self._limit
        finally:
            self._limit = None

    @contextmanager
    def paused(self) -> Generator[None]:
        """The time of this block does not count."""
        self._waiting += 1
        if self._waiting == 1 and self._limit is not None and (end := self._limit.when()) is not None:
            self._left = end - asyncio.get_running_loop().time()
            self._limit.reschedule(None)
        try:
            yield
        finally:
            self._waiting -= 1
            if not self._waiting and self._limit is not None and self._limit.when() is None:
                with suppress(RuntimeError):  # the session has ended meanwhile
                    self._limit.reschedule(asyncio.get_running_loop().time() + self._left)
