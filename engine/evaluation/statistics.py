"""Whether one adapter is better than another, from what both did on the same tasks. Pure.

Three answers to three questions. *Is there a gain at all?* The e-value: evidence that may be looked at after every task
and may stop a measurement at any time, and still is wrong at most once in 20 where it says 20. *How big is it?* A
cluster bootstrap interval, which resamples templates and not tasks, because tasks made from one template succeed and
fail together. *What would the textbook say?* McNemar's exact test, valid only for a number of tasks fixed before.
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from engine.api_learning import EvaluationReport, Sampled, SampleOutcome
from engine.evaluation.metrics import Rate, wilson

CONFIDENCE = 0.95
MIN_CLUSTERS = 5
"""With k clusters there are C(2k-1, k) different resamples: 35 with 4, too few to have a 2.5 % tail at all."""


@dataclass(frozen=True, slots=True)
class Paired:
    """One task, tried by both: did each pass?"""

    task: str
    template: str
    candidate: bool
    reference: bool

    @property
    def difference(self) -> int:
        """1 for a win of the candidate, -1 for a loss, 0 where both did the same."""
        return int(self.candidate) - int(self.reference)


@dataclass(frozen=True, slots=True)
class Tally:
    """Paired outcomes, counted."""

    wins: int
    losses: int
    ties: int


def pair(
    candidate: EvaluationReport, reference: EvaluationReport, groups: Collection[str] | None = None
) -> tuple[Paired, ...]:
    """The tasks that both reports have an outcome of, in the candidate's order; the first sample of each task counts.

    `groups` None means all groups.

    A task whose first sample is an infrastructure failure in either report drops out of both: it says nothing about
    either answer, and counting the other one would compare different tasks.

    Raises:
        ValueError: the reports are not of the same tasks, asked in the same way of the same model.
    """
    for field in ("suite", "suite_digest", "split", "seed", "base_model", "backend", "sampling"):
        ours, theirs = getattr(candidate, field), getattr(reference, field)
        if ours != theirs:
            raise ValueError(f"these reports cannot be compared: {field} is {ours} in one and {theirs} in the other")
    theirs_by_task = first_samples(reference)
    return tuple(
        Paired(task, ours.template, ours.outcome is SampleOutcome.PASSED, other.outcome is SampleOutcome.PASSED)
        for task, ours in first_samples(candidate).items()
        if (groups is None or ours.group in groups)
        and (other := theirs_by_task.get(task)) is not None
        and SampleOutcome.INFRASTRUCTURE not in (ours.outcome, other.outcome)
    )


def first_samples(report: EvaluationReport) -> dict[str, Sampled]:
    """Each task's first sample, by task, in the order of the report."""
    first: dict[str, Sampled] = {}
    for sampled in report.sampled:
        known = first.get(sampled.task)
        if known is None or sampled.sample < known.sample:
            first[sampled.task] = sampled
    return first


def tally(pairs: Sequence[Paired]) -> Tally:
    """Wins, losses and ties of the candidate."""
    wins = sum(paired.difference == 1 for paired in pairs)
    losses = sum(paired.difference == -1 for paired in pairs)
    return Tally(wins, losses, len(pairs) - wins - losses)


def e_value(wins: int, losses: int) -> float:
    """How strongly the wins among the tasks that only one of both passed speak for the candidate.

    The likelihood ratio of "the candidate wins a share p of them" against "one half", mixed evenly over p in
    [1/2, 1]: the integral of 2 (2p)^w (2-2p)^l dp. Under "no better" its expectation is at most 1 whenever one stops,
    so by Ville's inequality it ever reaches 1/a with a probability of at most a: no number of looks spoils it.
    With n = w + l the integral is the rational number sum_{j<=w} C(n+1, j) / ((n+1) C(n, w)), computed exactly.

    Returns the largest float where the value is beyond it (from about 1030 wins in a row).

    Raises:
        ValueError: a negative number.
    """
    if wins < 0 or losses < 0:
        raise ValueError(f"{wins} wins and {losses} losses are not counts")
    decided = wins + losses
    term, below = 1, 0
    for j in range(wins + 1):
        below += term
        term = term * (decided + 1 - j) // (j + 1)
    try:
        return below / ((decided + 1) * math.comb(decided, wins))
    except OverflowError:
        return sys.float_info.max


def mcnemar(wins: int, losses: int) -> float:
    """Two-sided p-value of McNemar's exact test: a fair coin giving at least so lopsided a count. 1.0 without data.

    Raises:
        ValueError: a negative number.
    """
    if wins < 0 or losses < 0:
        raise ValueError(f"{wins} wins and {losses} losses are not counts")
    decided = wins + losses
    tail = sum(math.comb(decided, j) for j in range(max(wins, losses), decided + 1))
    return min(1.0, 2 * tail / 2**decided)


def cluster_interval(pairs: Sequence[Paired], seed: int, resamples: int) -> tuple[float, float, float]:
    """Difference of the pass rates with its 95 % percentile bootstrap interval: (difference, low, high).

    Templates are resampled with replacement, each with all its tasks. Fewer than `MIN_CLUSTERS` templates give the
    whole range [-1, 1], which says just what is known then. The same seed gives the same interval; the global random
    number generator is not touched.

    Raises:
        ValueError: fewer than 1 resamples.
    """
    if resamples < 1:
        raise ValueError(f"{resamples} resamples give no interval")
    clusters = _clusters(pairs)
    difference = _mean(clusters)
    if len(clusters) < MIN_CLUSTERS:
        return difference, -1.0, 1.0
    generator = random.Random(seed)
    means = sorted(_mean(generator.choices(clusters, k=len(clusters))) for _ in range(resamples))
    # Nearest ranks, outwards: with few resamples the interval is rather too wide.
    tail = (1 - CONFIDENCE) / 2
    low, high = math.floor(tail * (resamples - 1)), math.ceil((1 - tail) * (resamples - 1))
    return difference, means[low], means[high]


def _clusters(pairs: Sequence[Paired]) -> list[tuple[int, int]]:
    """(sum of differences, tasks) of each template. Sorted: the order of the tasks must not change the interval."""
    sums: dict[str, tuple[int, int]] = {}
    for paired in pairs:
        total, tasks = sums.get(paired.template, (0, 0))
        sums[paired.template] = (total + paired.difference, tasks + 1)
    return [sums[template] for template in sorted(sums)]


def _mean(clusters: Sequence[tuple[int, int]]) -> float:
    tasks = sum(tasks for _, tasks in clusters)
    return sum(total for total, _ in clusters) / tasks if tasks else 0.0


def disagreement(pairs: Sequence[Paired]) -> Rate:
    """Share of tasks on which both did not do the same. Of an adapter against itself: the noise floor of a gate."""
    return wilson(sum(paired.candidate != paired.reference for paired in pairs), len(pairs))
