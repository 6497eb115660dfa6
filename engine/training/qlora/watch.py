"""What is made of the losses: diverged? better than before? time to stop? Pure, and small enough to be saved."""

from __future__ import annotations

import math
from dataclasses import dataclass

MEMORY = 0.9
"""Share of the running mean that stays at each step: about ten steps long."""
WARM_UP = 5
"""Steps before the mean means something."""
FLOOR = 0.25
"""Nats per token that the mean is taken for at least: near zero, one unusual example is a multiple of it."""


@dataclass
class LossWatch:
    """Sees every step's loss; says when the training has diverged."""

    explode: float
    mean: float = 0.0
    seen: int = 0

    def check(self, step: int, loss: float | None, grad_norm: float) -> str | None:
        """Take one step's loss in.

        Args:
            loss: of what is learned; None where nothing is in this step. What is kept begins at zero, and a mean of
                both would take the first step that learns for an explosion.

        Returns:
            None, or why the training must stop.
        """
        if loss is not None and not math.isfinite(loss):
            return f"The loss is not a number any more at step {step}; try a lower learning rate."
        if not math.isfinite(grad_norm):
            return f"The gradient is not finite any more at step {step}; try a lower learning rate."
        if loss is None:
            return None
        limit = self.explode * max(self.mean, FLOOR)
        if self.seen >= WARM_UP and loss > limit:
            return (
                f"The loss exploded at step {step}: {loss:.4g} is more than {self.explode:g} times its running mean "
                f"of {max(self.mean, FLOOR):.4g}; try a lower learning rate."
            )
        # A mean that starts at its first value instead of zero.
        keep = MEMORY if self.seen else 0.0
        self.mean = keep * self.mean + (1 - keep) * loss
        self.seen += 1
        return None


@dataclass
class Best:
    """The best evaluation so far, and how many came after it."""

    patience: int
    loss: float | None = None
    step: int = 0
    worse: int = 0

    def take(self, step: int, loss: float) -> bool:
        """Take one evaluation in; whether it is the best."""
        if self.loss is None or loss < self.loss:
            self.loss, self.step, self.worse = loss, step, 0
            return True
        self.worse += 1
        return False

    @property
    def exhausted(self) -> bool:
        """Whether it is time to stop."""
        return self.worse >= self.patience
