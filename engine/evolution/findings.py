"""What a decision is made of: the rules' numbers, all that was measured, and what a rule finds. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engine.api_evolution import Contamination, TextDrift, TierName, Verdict
from engine.api_learning import BASE, EvaluationReport, RateRecord
from engine.evaluation.metrics import wilson
from engine.evaluation.statistics import Paired, cluster_interval
from engine.evolution.seen import Seen

TIERS: tuple[TierName, ...] = ("task", "domain", "project")
"""The lowest first."""


@dataclass(frozen=True, slots=True)
class Rules:
    """The numbers that the rules go by; see [evaluation] and [evolution] of config.toml."""

    e_threshold: float = 20.0
    max_loss: float = 0.05
    max_perplexity_rise: float = 0.03
    """Of the general text, relative."""
    perplexity_tier: TierName = "domain"
    """The lowest tier that such a rise keeps an adapter from."""
    resamples: int = 2000
    min_evaluations: int = 1


@dataclass(frozen=True, slots=True)
class Versus:
    """An adapter and what it is compared with, on the same tasks."""

    name: str
    adapter: EvaluationReport
    reference: EvaluationReport
    seen: Seen | None = None
    """What of these tasks the adapter learned from; None: nobody looked."""


@dataclass(frozen=True, slots=True)
class Measured:
    """All that a decision rests on."""

    adapter: str
    adapter_digest: str
    incumbent: str
    """Whom it must beat: the champion, or `base`."""
    to_tier: TierName
    candidate: EvaluationReport
    """On the deciding split of the suite."""
    reference: EvaluationReport
    """The incumbent's there."""
    contamination: Contamination
    base: EvaluationReport | None = None
    """The base model's there; None where the incumbent is the base model."""
    ood: Versus | None = None
    """Against the base model on a suite out of distribution; used where the deciding suite has no such group."""
    anchors: tuple[Versus, ...] = ()
    candidates: int = 1
    """How many share the error budget."""
    evaluations: int = 1
    """How often the adapter was measured, this time included."""
    earlier_looks: int = 0
    """With other seeds, at this adapter and suite for this task type: each has spent of the error budget."""
    text: TextDrift | None = None
    text_unmeasured: str = "nobody asked for it"
    """Why `text` is None."""
    again: tuple[EvaluationReport, ...] = ()
    """The incumbent on the tasks that decide, under other seeds; empty where the noise floor was not asked for."""


@dataclass(frozen=True, slots=True)
class Effect:
    """A paired difference with its 95 % interval."""

    tasks: int
    templates: int
    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{points(self.value)} [{points(self.low)}, {points(self.high)}]"


@dataclass(frozen=True, slots=True)
class Found:
    """One rule's word. `verdict` PROVEN: nothing stands in the way."""

    verdict: Verdict
    reason: str


def base_report(measured: Measured) -> EvaluationReport | None:
    """What the base model does with the deciding tasks; None where it was not measured."""
    return measured.reference if measured.incumbent == BASE else measured.base


def effect_of(pairs: Sequence[Paired], seed: int, rules: Rules) -> Effect:
    """Of the pairs, with an interval over their templates."""
    value, low, high = cluster_interval(pairs, seed, rules.resamples)
    return Effect(len(pairs), len({paired.template for paired in pairs}), value, low, high)


def rate_of(outcomes: Sequence[bool]) -> RateRecord:
    """Share of these that passed, with its Wilson interval."""
    found = wilson(sum(outcomes), len(outcomes))
    return RateRecord(passed=found.passed, total=found.total, value=found.value, low=found.low, high=found.high)


def points(difference: float) -> str:
    """`+2.5 points`."""
    return f"{100 * difference:+.1f} points"


def number(value: float) -> str:
    """Three significant digits."""
    return f"{value:.3g}"
