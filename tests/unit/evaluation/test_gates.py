"""A78, A82, A83: gates at their exact limits."""

from __future__ import annotations

from fractions import Fraction
from typing import Protocol

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


SETTINGS = KillSwitchSettings(cadence=100, samples=60)


def halts(switch: Decides, *solved: int, total: int = 60) -> list[bool]:
    """The first is the baseline."""
    baseline, *later = (wilson(number, total) for number in solved)
    return [switch.halts(baseline, now) for now in later]


class Decides(Protocol):
    def halts(self, baseline: Rate, now: Rate) -> bool: ...


class AtMost(KillSwitch):
    """A broken one: it compares with <= where the rule is strict."""

    def halts(self, baseline: Rate, now: Rate) -> bool:
        return Fraction(now.passed, now.total) <= Fraction(baseline.passed, baseline.total) - Fraction(5, 100)


class Floats:
    """A broken one: 0.6 - 0.05 is a little less than 0.55, and 0.57 - 0.05 a little less than 0.52."""

    def halts(self, baseline: Rate, now: Rate) -> bool:
        return now.value < baseline.value - 0.05


def test_a78_kill_switch_halts_strictly_below_the_baseline_minus_delta() -> None:
    """The example of the specification: 0.60, then 0.55 goes on, then 0.40 halts."""
    switch = KillSwitch(SETTINGS)
    assert halts(switch, 36, 33, 24) == [False, True]
    assert halts(switch, 36, 32, 60) == [True, False]
    assert halts(AtMost(SETTINGS), 36, 33, 24) == [True, True], "negative control: 0.55 of 0.60 is allowed"


def test_a78_the_limit_itself_is_allowed_at_every_baseline() -> None:
    switch, total = KillSwitch(SETTINGS), 100
    assert not any(halts(switch, solved, solved - 5, total=total)[0] for solved in range(5, 101))
    assert all(halts(switch, solved, solved - 6, total=total)[0] for solved in range(6, 101))
    wrong = [solved for solved in range(5, 101) if halts(Floats(), solved, solved - 5, total=total)[0]]
    assert wrong, "negative control: with floats some of them halt"


def test_a78_a_stable_score_never_halts_and_a_better_one_neither() -> None:
    assert not any(halts(KillSwitch(SETTINGS), 36, *[36] * 20, 40, 60))


def test_a78_it_looks_at_multiples_of_the_cadence_and_not_before_the_first_step() -> None:
    switch = KillSwitch(SETTINGS)
    assert [step for step in range(301) if switch.is_due(step)] == [100, 200, 300]


def test_a78_from_a_baseline_of_delta_nothing_can_be_lost() -> None:
    switch = KillSwitch(SETTINGS)
    assert [switch.can_halt(wilson(solved, 60)) for solved in (0, 3, 4)] == [False, False, True]
    assert not any(halts(switch, 3, now)[0] for now in range(61)) and halts(switch, 4, 0) == [True]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (KillSwitchSettings(benchmark=""), "nothing to evaluate"),
        (KillSwitchSettings(samples=0), "nothing to evaluate"),
        (KillSwitchSettings(samples=20), "one flipped problem is 5.0%"),
        (KillSwitchSettings(samples=40, delta=Fraction(1, 100)), "one flipped problem is 2.5%"),
        (KillSwitchSettings(cadence=0), "cadence"),
    ],
)
def test_a78_kill_switch_refuses_what_cannot_work(settings: KillSwitchSettings, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        KillSwitch(settings)


def test_a78_so_many_samples_that_one_flipped_problem_never_halts() -> None:
    fewest = KillSwitchSettings(samples=21)
    assert not any(halts(KillSwitch(fewest), solved, solved - 1, total=21)[0] for solved in range(1, 22))


def test_a78_no_data_is_no_verdict() -> None:
    for solved in ((wilson(3, 60), wilson(0, 0)), (wilson(0, 0), wilson(3, 60))):
        with pytest.raises(ValueError, match="no data"):
            KillSwitch(SETTINGS).halts(*solved)
