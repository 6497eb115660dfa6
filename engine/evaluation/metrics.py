"""Rates with the honesty they need: unbiased pass@k and Wilson intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass

Z_95 = 1.959963984540054
"""Two-sided 95 % quantile of the normal distribution."""


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Probability that at least one of `k` samples passes, estimated without bias from `samples` of them.

    Method: Chen et al. 2021, "Evaluating Large Language Models Trained on Code", section 2.1:
    1 - C(n-c, k) / C(n, k), as a product that does not overflow.

    Raises:
        ValueError: no samples, a negative number, more correct than samples, or k outside 1..samples.
    """
    if samples < 1 or correct < 0 or correct > samples or k < 1 or k > samples:
        raise ValueError(f"pass@{k} of {correct} correct in {samples} samples is not defined")
    wrong = samples - correct
    if wrong < k:
        return 1.0
    return 1.0 - math.prod((wrong - i) / (samples - i) for i in range(k))


@dataclass(frozen=True)
class Rate:
    """`passed` of `total`, with its 95 % Wilson score interval."""

    passed: int
    total: int
    low: float
    high: float

    @property
    def value(self) -> float:
        """The point estimate; 0.0 where there is no data."""
        return self.passed / self.total if self.total else 0.0

    def __str__(self) -> str:
        return f"{self.passed}/{self.total} = {self.value:.1%} [{self.low:.1%}, {self.high:.1%}]"


def wilson(passed: int, total: int, z: float = Z_95) -> Rate:
    """The Wilson score interval of a rate (Wilson 1927, "Probable Inference", JASA 22:209-212).

    No data gives the whole interval [0, 1], which says just that.

    Raises:
        ValueError: a negative number, or more passed than total.
    """
    if passed < 0 or total < passed:
        raise ValueError(f"{passed} passed of {total} is not a rate")
    if total == 0:
        return Rate(0, 0, 0.0, 1.0)
    share = passed / total
    denominator = 1 + z * z / total
    centre = (share + z * z / (2 * total)) / denominator
    margin = z / denominator * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    # At 0 and 1 rounding can put a bound on the wrong side of the rate itself.
    return Rate(passed, total, max(0.0, min(share, centre - margin)), min(1.0, max(share, centre + margin)))
