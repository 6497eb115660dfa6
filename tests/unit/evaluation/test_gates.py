"""A78, A82, A83: gates at their exact limits."""

from __future__ import annotations

from fractions import Fraction

import pytest

from engine.evaluation.gates import (
    Delta,
    KillSwitch,
    KillSwitchSettings,
    generalisation_delta,
    hypothesis,
    is_memoriser,
    oracle_gain,
    oracle_round,
    quality,
)
from engine.evaluation.metrics import Rate, wilson

NAMES = ("a", "b", "c", "d", "e", "f")


@pytest.mark.parametrize(("before", "after", "passed"), [(100, 105, True), (100, 104, False), (100, 100, False)])
def test_a83_hypothesis_is_five_percent_of_the_baseline(before: int, after: int, passed: bool) -> None:
    result = hypothesis(wilson(before, 200), wilson(after, 200))
    assert result.passed is passed
    assert result.exit_code == (0 if passed else 1)
    assert result.reasons


def test_a83_zero_over_zero_fails() -> None:
    assert not hypothesis(wilson(0, 30), wilson(0, 30)).passed
    assert not oracle_gain(wilson(0, 30), wilson(0, 30)).passed
    assert hypothesis(wilson(0, 30), wilson(1, 30)).passed


def test_a83_no_data_fails() -> None:
    assert not hypothesis(wilson(0, 0), wilson(5, 30)).passed
    assert not hypothesis(wilson(5, 30), wilson(0, 0)).passed
    assert not oracle_gain(wilson(0, 0), wilson(5, 30)).passed


def test_more_than_fifteen_percent_is_suspected_leakage() -> None:
    assert not hypothesis(wilson(100, 200), wilson(115, 200)).leakage_suspected
    suspect = hypothesis(wilson(100, 200), wilson(116, 200))
    assert suspect.passed and suspect.leakage_suspected
    assert "15 %" in suspect.reasons[-1]


def _round(*deltas: int) -> tuple[dict[str, Rate], dict[str, Rate]]:
    baseline = {name: wilson(55, 100) for name in NAMES}
    return baseline, {name: wilson(55 + delta, 100) for name, delta in zip(NAMES, deltas, strict=True)}


@pytest.mark.parametrize(
    ("deltas", "passed"),
    [
        ((2, 2, 2, 2, 0, 0), True),
        ((2, 2, 2, 2, -1, -1), True),
        ((2, 2, 2, 1, 1, 1), False),
        ((9, 9, 9, 9, 9, -2), False),
    ],
)
def test_a83_oracle_round(deltas: tuple[int, ...], passed: bool) -> None:
    """57/100 - 55/100 as floats is below 0.02: fractions decide."""
    assert 0.57 - 0.55 < 0.02
    assert oracle_round(*_round(*deltas)).passed is passed


def test_a83_a_missing_or_empty_benchmark_is_an_error() -> None:
    baseline, adapter = _round(2, 2, 2, 2, 2, 2)
    missing = {name: rate for name, rate in adapter.items() if name != "c"}
    with pytest.raises(ValueError, match="missing on one side: c"):
        oracle_round(baseline, missing)
    with pytest.raises(ValueError, match="5 benchmarks"):
        oracle_round({name: rate for name, rate in baseline.items() if name != "c"}, missing)
    with pytest.raises(ValueError, match="no data of b"):
        oracle_round(baseline, adapter | {"b": wilson(0, 0)})


def test_a83_one_oracle_needs_three_points() -> None:
    assert oracle_gain(wilson(55, 100), wilson(58, 100)).passed
    assert not oracle_gain(wilson(55, 100), wilson(57, 100)).passed


def test_a82_generalisation_delta_is_out_minus_in() -> None:
    assert generalisation_delta(wilson(2, 10), wilson(9, 10)) == Delta(pytest.approx(-0.7), no_data=False)
    assert generalisation_delta(wilson(9, 10), wilson(2, 10)).value > 0
    assert generalisation_delta(wilson(0, 0), wilson(9, 10)) == Delta(0.0, no_data=True)
    assert generalisation_delta(wilson(9, 10), wilson(0, 0)) == Delta(0.0, no_data=True)


def test_quality_rewards_generalising_and_does_not_punish_without_data() -> None:
    assert quality(0.5, Delta(0.2, no_data=False)) == pytest.approx(0.52)
    assert quality(0.5, Delta(-0.2, no_data=False)) == 0.5
    assert quality(0.99, Delta(1.0, no_data=False)) == 1.0
    assert quality(0.5, Delta(0.0, no_data=True)) == 0.5


def test_memoriser_gains_only_where_it_was_trained() -> None:
    assert is_memoriser(0.8, -0.02, 0.05)
    assert is_memoriser(0.8, 0.0, 0.05)
    assert not is_memoriser(0.8, 0.01, 0.2)
    assert not is_memoriser(0.0, -0.02, 0.05)


# --- kill switch ---------------------------------------------------------------------------------------------


class _Scores:
    """Gives one score after the other, in sixtieths."""

    def __init__(self, *passed: int) -> None:
        self._passed = list(passed)
        self.asked = 0

    def __call__(self) -> Rate:
        self.asked += 1
        return wilson(self._passed.pop(0), 60)


SETTINGS = KillSwitchSettings(enabled=True, cadence=100, samples=60)


def test_a78_kill_switch_halts_strictly_below_the_baseline_minus_delta() -> None:
    """The example of the specification: 0.60, then 0.55 goes on, then 0.40 halts."""
    scores = _Scores(36, 33, 24)
    switch = KillSwitch(SETTINGS, scores)
    assert switch.baseline == wilson(36, 60)
    assert [switch.halts(step) for step in (0, 50, 100, 150, 200)] == [False, False, False, False, True]
    assert scores.asked == 3


def test_a78_a_stable_score_never_halts() -> None:
    switch = KillSwitch(SETTINGS, _Scores(*[36] * 20))
    assert not any(switch.halts(step) for step in range(0, 1900, 100))


def test_a78_kill_switch_refuses_what_cannot_work() -> None:
    with pytest.raises(ValueError, match="nothing to evaluate"):
        KillSwitch(SETTINGS, None)
    with pytest.raises(ValueError, match="one flipped problem"):
        KillSwitch(KillSwitchSettings(enabled=True, samples=20), _Scores(1))
    with pytest.raises(ValueError, match="cadence"):
        KillSwitch(KillSwitchSettings(enabled=True, cadence=0), _Scores(1))
    empty = iter([wilson(3, 60), wilson(0, 0)])
    with pytest.raises(ValueError, match="no data"):
        KillSwitch(SETTINGS, lambda: next(empty)).halts(100)


def test_a78_a_switch_that_is_off_measures_nothing() -> None:
    scores = _Scores()
    switch = KillSwitch(KillSwitchSettings(delta=Fraction(1, 1000)), scores)
    assert not switch.halts(100)
    assert (switch.baseline, scores.asked) == (None, 0)
