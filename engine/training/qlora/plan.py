"""Which sequences each step takes, and its learning rate: functions of the seed and the step alone.

So there is no position to save but the number of steps done, and no sampler or scheduler state to forget.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from functools import lru_cache

from engine.config import TrainSection
from engine.training.estimate import planned_steps, steps_per_epoch

BUCKET = 8
"""Batches that are sorted by length together: padding is 7 to 10 % of the tokens, and batches stay random."""


class Plan:
    """The order of a run.

    Args:
        lengths: tokens of each sequence.
        seed: same seed, same order.
    """

    def __init__(self, lengths: Sequence[int], recipe: TrainSection, seed: int) -> None:
        self._lengths = tuple(lengths)
        self._batch_size = recipe.batch_size
        self._seed = seed
        self._base_rate = recipe.learning_rate
        self.steps = planned_steps(len(lengths), recipe)
        self._per_epoch = steps_per_epoch(len(lengths), recipe)
        self._warmup = math.ceil(recipe.warmup_ratio * self.steps)
        self._epoch = lru_cache(maxsize=1)(self._shuffle)

    def batch(self, step: int) -> tuple[int, ...]:
        """Indexes of the sequences of this 1-based step, the longest first, so that memory runs out at once if ever."""
        epoch, position = divmod(step - 1, self._per_epoch)
        return self._epoch(epoch)[position]

    def learning_rate(self, step: int) -> float:
        """Of this 1-based step: up linearly, then down linearly to almost nothing."""
        if step <= self._warmup:
            return self._base_rate * step / self._warmup
        return self._base_rate * (self.steps - step + 1) / (self.steps - self._warmup)

    def _shuffle(self, epoch: int) -> list[tuple[int, ...]]:
        order = list(range(len(self._lengths)))
        randomness = random.Random(f"{self._seed}/{epoch}")  # an order, not a secret
        randomness.shuffle(order)
        width = self._batch_size * BUCKET
        batches: list[tuple[int, ...]] = []
        for start in range(0, len(order), width):
            bucket = sorted(order[start : start + width], key=lambda index: -self._lengths[index])
            batches += [tuple(bucket[i : i + self._batch_size]) for i in range(0, len(bucket), self._batch_size)]
        randomness.shuffle(batches)
        return batches


def cut(batch: Sequence[int], size: int) -> list[Sequence[int]]:
    """A batch in micro-batches of at most `size`."""
    return [batch[start : start + size] for start in range(0, len(batch), size)]
