"""Gates: fixed rules that say yes or no about measured rates, each with its reasons. Pure.

Rates are compared as the fractions that they are: 57/100 is two points above 55/100, which 0.57 - 0.55 is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from engine.evaluation.metrics import Rate

HYPOTHESIS_GAIN = Fraction(5, 100)
"""Relative: the first question is whether an adapter does anything at all."""
LEAKAGE_GAIN = Fraction(15, 100)
"""A relative gain beyond this is rather a test that was trained on than a success."""
ROUND_BENCHMARKS = 6
ROUND_BETTER = 4
ROUND_GAIN = Fraction(2, 100)
ROUND_LOSS = Fraction(1, 100)
ORACLE_GAIN = Fraction(3, 100)
QUALITY_WEIGHT = 0.1
"""How much a positive generalisation delta counts beside the pass rate."""


@dataclass(frozen=True, slots=True)
class GateResult:
    """What a gate says. `deltas`: adapter minus baseline by benchmark, in [-1, 1]."""

    passed: bool
    deltas: Mapping[str, float]
    reasons: tuple[str, ...]
    leakage_suspected: bool = False

    @property
    def exit_code(self) -> int:
        """For a command: 0 where the gate is passed, 1 where not."""
        return 0 if self.passed else 1


@dataclass(frozen=True, slots=True)
class Delta:
    """A difference of rates; `no_data` where one of them is over nothing, and then 0."""

    value: float
    no_data: bool


def hypothesis(baseline: Rate, adapter: Rate, name: str = "pass@1") -> GateResult:
    """Gate 1: the adapter is better by at least 5 % of the baseline. 0 against 0 fails; so does no data.

    A relative gain over 15 %, or any gain over a baseline of 0, is marked as suspected leakage: look before believing.
    """
    if not baseline.total or not adapter.total:
        return GateResult(False, {name: 0.0}, (f"{name}: there is no data.",))
    before, after = _fraction(baseline), _fraction(adapter)
    deltas = {name: float(after - before)}
    if after == 0:
        return GateResult(False, deltas, (f"{name}: {baseline} against {adapter}: nothing passes.",))
    passed = after >= before * (1 + HYPOTHESIS_GAIN)
    suspect = after > before * (1 + LEAKAGE_GAIN)
    reasons = [f"{name}: {baseline} before, {adapter} after; at least 5 % of the baseline more is asked for."]
    if suspect:
        reasons.append(f"{name}: a gain of more than 15 % of the baseline; make sure that no test was learned.")
    return GateResult(passed, deltas, tuple(reasons), leakage_suspected=suspect)


def oracle_round(baseline: Mapping[str, Rate], adapter: Mapping[str, Rate]) -> GateResult:
    """A round of oracles: at least 4 of 6 benchmarks up by 2 points, none down by more than 1.

    Raises:
        ValueError: not six benchmarks, one is missing on either side, or one has no data.
    """
    if baseline.keys() != adapter.keys():
        missing = ", ".join(sorted(baseline.keys() ^ adapter.keys()))
        raise ValueError(f"a benchmark is missing on one side: {missing}")
    if len(baseline) != ROUND_BENCHMARKS:
        raise ValueError(f"{len(baseline)} benchmarks; a round has {ROUND_BENCHMARKS}")
    if empty := sorted(name for name in baseline if not baseline[name].total or not adapter[name].total):
        raise ValueError(f"no data of {', '.join(empty)}")
    exact = {name: _fraction(adapter[name]) - _fraction(baseline[name]) for name in baseline}
    better = [name for name, delta in exact.items() if delta >= ROUND_GAIN]
    worse = [name for name, delta in exact.items() if delta < -ROUND_LOSS]
    reasons = [f"{len(better)} of {len(exact)} benchmarks are up by 2 points; {ROUND_BETTER} are asked for."]
    reasons += [f"{name} is down by {-float(exact[name]):.1%}; 1 point is allowed." for name in worse]
    passed = len(better) >= ROUND_BETTER and not worse
    return GateResult(passed, {name: float(delta) for name, delta in exact.items()}, tuple(reasons))


def oracle_gain(baseline: Rate, adapter: Rate, name: str = "pass@1") -> GateResult:
    """One oracle: at least 3 points up. 0 against 0, and no data, fail."""
    if not baseline.total or not adapter.total:
        return GateResult(False, {name: 0.0}, (f"{name}: there is no data.",))
    delta = _fraction(adapter) - _fraction(baseline)
    reason = f"{name}: {baseline} before, {adapter} after; 3 points are asked for."
    return GateResult(delta >= ORACLE_GAIN, {name: float(delta)}, (reason,))


def generalisation_delta(out_of_distribution: Rate, in_distribution: Rate) -> Delta:
    """Rate out of distribution minus rate in it; negative means overfitted."""
    if not out_of_distribution.total or not in_distribution.total:
        return Delta(0.0, no_data=True)
    return Delta(float(_fraction(out_of_distribution) - _fraction(in_distribution)), no_data=False)


def quality(pass_rate: float, delta: Delta) -> float:
    """Pass rate with a small premium for generalising, at most 1; the pass rate alone where there is no delta."""
    premium = 0.0 if delta.no_data else QUALITY_WEIGHT * max(delta.value, 0.0)
    return min(pass_rate + premium, 1.0)


def is_memoriser(gain_low: float, ood_low: float, ood_high: float) -> bool:
    """Whether an adapter only knows what it was shown.

    It gains on what it was trained for (the interval is above 0), and out of distribution the interval of its gain
    includes 0.
    """
    return gain_low > 0 and ood_low <= 0 <= ood_high


def _fraction(rate: Rate) -> Fraction:
    return Fraction(rate.passed, rate.total)


# --- during training -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class KillSwitchSettings:
    """When a training is halted because the model gets worse at something it could do."""

    benchmark: str = "humaneval"
    samples: int = 40
    """Tasks of it, one answer each."""
    cadence: int = 100
    """Optimiser steps between two looks."""
    delta: Fraction = Fraction(5, 100)
    """How far the score may fall below the baseline."""


class KillSwitch:
    """Halts a training that makes the model worse than it was. Measures nothing: whoever trains measures, and asks.

    Raises (on construction):
        ValueError: there is nothing to evaluate with, the cadence is below 1, or there are so few samples that one
            flipped problem would halt a training.
    """

    def __init__(self, settings: KillSwitchSettings) -> None:
        if not settings.benchmark or settings.samples < 1:
            raise ValueError("the kill switch is enabled, but there is nothing to evaluate the model with")
        if settings.cadence < 1:
            raise ValueError("the kill switch needs a cadence of at least 1")
        if Fraction(1, settings.samples) >= settings.delta:
            raise ValueError(
                f"with {settings.samples} samples one flipped problem is {1 / settings.samples:.1%}, "
                f"and must be less than the {float(settings.delta):.1%} that may be lost"
            )
        self._settings = settings

    def is_due(self, step: int) -> bool:
        """Whether the model is measured after that many steps."""
        return step > 0 and step % self._settings.cadence == 0

    def can_halt(self, baseline: Rate) -> bool:
        """Whether any score is low enough: from a baseline of no more than delta nothing can be lost."""
        return _fraction(baseline) > self._settings.delta

    def halts(self, baseline: Rate, now: Rate) -> bool:
        """Whether the training must stop.

        Args:
            baseline: before the first step.
            now: of the model being trained.

        Raises:
            ValueError: one of them is over nothing.
        """
        if not now.total or not baseline.total:
            raise ValueError(f"{self._settings.benchmark} gave no data: whether the model got worse is not known")
        return _fraction(now) < _fraction(baseline) - self._settings.delta
