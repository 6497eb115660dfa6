"""Where a run is: all of it that is not a tensor. What a checkpoint holds, and the metrics are made from."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from engine.training.qlora.watch import Best, LossWatch

NEVER = -1
"""Of `evaluated`: not even before the first step."""


@dataclass
class State:
    """One owner: the loop. Changed only between steps, so that it can be saved whenever a step is not under way."""

    watch: LossWatch
    best: Best
    micro_batch: int
    """Sequences at a time; only ever made smaller."""
    step: int = 0
    """Optimizer steps done."""
    evaluated: int = NEVER
    """The last step after which the held-out loss was taken; 0 is before the first."""
    loss: float = 0.0
    """Of the last step, in nats per answer token."""
    held_out_start: float | None = None
    held_out_loss: float | None = None
    """Of the last evaluation."""
    tokens: int = 0
    answer_tokens: int = 0
    seconds: float = 0.0
    """Of steps, evaluations and looks, over all runs of the job."""
    step_seconds: float = 0.0
    """Of steps alone."""
    resumed: int = 0

    def to_json(self) -> dict[str, Any]:
        """As a checkpoint holds it."""
        return asdict(self)

    @staticmethod
    def from_json(value: dict[str, Any]) -> State:
        """The inverse of `to_json`.

        Raises:
            KeyError, TypeError: something is missing, or is not ours.
        """
        known: dict[str, Any] = {field.name: value[field.name] for field in fields(State)}
        known["watch"], known["best"] = LossWatch(**known["watch"]), Best(**known["best"])
        return State(**known)
