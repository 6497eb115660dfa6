"""What one run of a session may spend. A resumed session starts with a fresh budget, or it could never go on."""

from __future__ import annotations

from engine.errors import BudgetExceededError


class TokenBudget:
    """Tokens of one run: what the prompts and the answers cost together."""

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
