"""Plain data of two measurements that promotion evidence may have: a general text, and the noise floor of a gate."""

from __future__ import annotations

from pydantic import Field

from engine.api_models import Frozen

FACTOR = 10
"""A rise of so many times is said as a factor."""


class TextDrift(Frozen):
    """What the adapter does to the base model on a fixed text of plain English and some Python."""

    text_digest: str
    """Of the text and of how it is measured."""
    base_digest: str
    """Of the base model's weights."""
    tokens: int
    base_perplexity: float = Field(gt=0)
    adapter_perplexity: float
    kl: float
    """Mean KL(base || adapter), nats per token."""

    @property
    def rise(self) -> float:
        """Of the perplexity, relative: 0.03 is 3 % more."""
        return self.adapter_perplexity / self.base_perplexity - 1

    @property
    def change(self) -> str:
        """The rise in words: `+2.5%`, or a factor where it is large. A broken adapter's has three hundred digits."""
        return f"{self.rise:+.1%}" if self.rise < FACTOR else f"{self.rise + 1:.3g} times"


class NoiseFloor(Frozen):
    """The incumbent against itself: what the gate calls a difference where there is none."""

    seeds: tuple[int, ...]
    """Of the measurements that are compared with the one of the duel."""
    compared: int
    """Tasks, once for each seed."""
    disagreed: int
    rate: float
    low: float
    high: float
    """Wilson's 95 % interval, as if all comparisons were of different tasks."""
