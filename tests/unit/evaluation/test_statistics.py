"""The statistics that promotions rest on, against values worked out in another way."""

from __future__ import annotations

import math
import random
import sys
from fractions import Fraction

import pytest
from support.learning_reports import planned, report

from engine.api_learning import EvaluationReport
from engine.evaluation.metrics import wilson
from engine.evaluation.statistics import (
    Paired,
    Tally,
    cluster_interval,
    disagreement,
    e_value,
    mcnemar,
    pair,
    tally,
)


def _integral(wins: int, losses: int) -> Fraction:
    """The e-value by its definition: the polynomial 2 (2p)^w (2-2p)^l multiplied out and integrated over [1/2, 1]."""
    total = Fraction(0)
    for i in range(losses + 1):
        power = wins + i
        coefficient = 2 * 2**wins * math.comb(losses, i) * 2 ** (losses - i) * (-2) ** i
        total += coefficient * (1 - Fraction(1, 2) ** (power + 1)) / (power + 1)
    return total


def test_e_value_is_its_integral_worked_out_exactly() -> None:
    for wins in range(25):
        for losses in range(25):
            assert e_value(wins, losses) == pytest.approx(float(_integral(wins, losses)), rel=1e-12)


def test_e_value_of_the_published_counts() -> None:
    """learning.md 4.3: 7 wins in a row are enough for 20, and 6 are not; (10, 1) gives 31, (14, 3) gives 21."""
    assert e_value(7, 0) >= 20 > e_value(6, 0)
    assert round(e_value(10, 1)) == 31
    assert round(e_value(14, 3)) == 21
    assert e_value(0, 0) == 1.0
    assert e_value(0, 7) == 1 / 8


def test_e_value_does_not_overflow() -> None:
    assert e_value(5000, 0) == sys.float_info.max
    assert e_value(0, 5000) == pytest.approx(1 / 5001)
    assert math.isfinite(e_value(3000, 2900))


def test_e_value_grows_with_wins_and_falls_with_losses() -> None:
    for wins in range(20):
        for losses in range(20):
            assert e_value(wins, losses + 1) < e_value(wins, losses) < e_value(wins + 1, losses)


def test_e_value_is_a_martingale_under_no_difference() -> None:
    """What makes stopping at any time honest: the mean of the two next values is the present one, exactly."""
    for wins in range(15):
        for losses in range(15):
            after = (_integral(wins + 1, losses) + _integral(wins, losses + 1)) / 2
            assert after == _integral(wins, losses)


def _false_alarms(gate: float, *, by_p_value: bool, runs: int = 1500, looks: int = 150) -> float:
    """Share of runs of a fair coin in which a look after each toss says "better" at least once."""
    generator = random.Random(20)
    alarms = 0
    for _ in range(runs):
        wins = 0
        for toss in range(1, looks + 1):
            wins += generator.random() < 0.5
            losses = toss - wins
            if wins > losses and (mcnemar(wins, losses) < gate if by_p_value else e_value(wins, losses) >= 1 / gate):
                alarms += 1
                break
    return alarms / runs


def test_looking_after_every_task_keeps_the_promised_error_rate() -> None:
    """Under "no better" at most 1 run in 20 may ever reach 20; the p-value, looked at as often, breaks its promise."""
    assert _false_alarms(0.05, by_p_value=False) <= 0.05
    assert _false_alarms(0.05, by_p_value=True) > 0.1  # negative control: what the e-value is there for


@pytest.mark.parametrize(("wins", "losses"), [(-1, 0), (0, -1)])
def test_negative_counts_are_refused(wins: int, losses: int) -> None:
    with pytest.raises(ValueError, match="not counts"):
        e_value(wins, losses)
    with pytest.raises(ValueError, match="not counts"):
        mcnemar(wins, losses)


def test_mcnemar_counts_every_outcome_of_a_fair_coin() -> None:
    for decided in range(1, 13):
        for wins in range(decided + 1):
            lopsided = abs(2 * wins - decided)
            as_much = sum(abs(2 * bits.bit_count() - decided) >= lopsided for bits in range(2**decided))
            assert mcnemar(wins, decided - wins) == pytest.approx(as_much / 2**decided)
    assert mcnemar(0, 0) == 1.0


def test_mcnemar_of_the_pilot() -> None:
    """learning.md 7.2: 92 of 100 against 0 of 100 gives about 4e-28."""
    assert mcnemar(92, 0) == pytest.approx(4e-28, rel=0.02)


def test_wilson_bounds_solve_the_score_equation() -> None:
    """A bound is where (p - b)^2 = z^2 b (1 - b) / n: checked at the bounds themselves, without the closed form."""
    z = 1.959963984540054
    for total in (5, 40, 100, 164):
        for passed in range(total + 1):
            rate = wilson(passed, total)
            for bound in (rate.low, rate.high):
                assert (rate.value - bound) ** 2 == pytest.approx(z * z * bound * (1 - bound) / total, abs=1e-12)
    assert wilson(0, 100).high == pytest.approx(0.037, abs=5e-4)
    assert (wilson(92, 100).low, wilson(92, 100).high) == (pytest.approx(0.85, abs=5e-3), pytest.approx(0.96, abs=5e-3))


# --- cluster bootstrap ---------------------------------------------------------------------------------------


def _pairs(outcomes: dict[str, list[tuple[bool, bool]]]) -> tuple[Paired, ...]:
    return tuple(
        Paired(f"{template}-{i}", template, candidate, reference)
        for template, found in outcomes.items()
        for i, (candidate, reference) in enumerate(found)
    )


MIXED = _pairs({f"t{i}": [(i % 3 > 0, i % 5 == 0)] * 4 for i in range(20)})


def test_interval_is_the_same_for_the_same_seed_and_leaves_the_global_generator_alone() -> None:
    state = random.getstate()
    first = cluster_interval(MIXED, 7, 500)
    assert random.getstate() == state
    assert cluster_interval(tuple(reversed(MIXED)), 7, 500) == first
    assert len({cluster_interval(MIXED, seed, 20) for seed in range(10)}) > 1


def test_difference_is_the_difference_of_the_rates() -> None:
    difference, low, high = cluster_interval(MIXED, 0, 500)
    rates = [sum(side) / len(MIXED) for side in ([p.candidate for p in MIXED], [p.reference for p in MIXED])]
    assert difference == pytest.approx(rates[0] - rates[1])
    assert -1 <= low < difference < high <= 1


def test_interval_agrees_with_the_normal_one_for_many_independent_tasks() -> None:
    generator = random.Random(3)
    pairs = tuple(Paired(str(i), str(i), generator.random() < 0.7, generator.random() < 0.4) for i in range(400))
    difference, low, high = cluster_interval(pairs, 1, 2000)
    spread = math.sqrt(sum((pair.difference - difference) ** 2 for pair in pairs)) / len(pairs)
    assert (low, high) == (
        pytest.approx(difference - 1.96 * spread, abs=0.01),
        pytest.approx(difference + 1.96 * spread, abs=0.01),
    )


def test_tasks_of_one_template_do_not_count_as_independent() -> None:
    """The negative control is the same outcomes with each task as a template of its own: far too sure."""
    together = _pairs({f"t{i}": [(i % 2 == 0, False)] * 20 for i in range(8)})
    apart = tuple(Paired(p.task, p.task, p.candidate, p.reference) for p in together)
    _, low, high = cluster_interval(together, 0, 1000)
    _, naive_low, naive_high = cluster_interval(apart, 0, 1000)
    assert high - low > 3 * (naive_high - naive_low)


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = random.Random(11)
    covered = 0
    for run in range(200):
        rates = [generator.choice([0.2, 0.8]) for _ in range(40)]
        pairs = tuple(
            Paired(f"{i}-{j}", f"t{i}", generator.random() < rates[i], False) for i in range(40) for j in "ab"
        )
        _, low, high = cluster_interval(pairs, run, 200)
        covered += low <= 0.5 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_too_few_templates_say_nothing() -> None:
    pairs = _pairs({f"t{i}": [(True, False)] * 25 for i in range(4)})
    assert cluster_interval(pairs, 0, 100) == (1.0, -1.0, 1.0)
    assert cluster_interval((), 0, 100) == (0.0, -1.0, 1.0)
    with pytest.raises(ValueError, match="resamples"):
        cluster_interval(pairs, 0, 0)


# --- pairing -------------------------------------------------------------------------------------------------


def test_infrastructure_drops_out_of_both() -> None:
    """A81: it is neither a pass nor a failure of either."""
    ours = report({"a": "passed", "b": "infrastructure", "c": "failed", "d": "passed"})
    theirs = report({"a": "failed", "b": "failed", "c": "passed", "d": "infrastructure"})
    pairs = pair(ours, theirs)
    assert [(p.task, p.candidate, p.reference) for p in pairs] == [("a", True, False), ("c", False, True)]
    assert tally(pairs) == Tally(wins=1, losses=1, ties=0)
    assert str(disagreement(pairs)).startswith("2/2")


def test_only_tasks_of_both_and_of_the_groups_asked_for_are_paired() -> None:
    ours = planned({"in": "pp", "deeper": "p"})
    theirs = planned({"in": "f", "deeper": "f"})
    assert [p.task for p in pair(ours, theirs)] == ["in-0", "deeper-0"]
    assert [p.task for p in pair(ours, theirs, {"deeper"})] == ["deeper-0"]


def test_the_first_sample_of_a_task_counts() -> None:
    ours = report({"a": "failed"})
    again = [ours.sampled[0].model_copy(update={"sample": n, "outcome": "passed"}) for n in (2, 1)]
    more = ours.model_copy(update={"sampled": (*again, *ours.sampled)})
    assert [p.candidate for p in pair(more, report({"a": "passed"}))] == [False]


@pytest.mark.parametrize(
    "change",
    [
        {"suite": "other"},
        {"suite_digest": "f" * 64},
        {"seed": 1},
        {"base_model": "x"},
        {"backend": "x"},
        {"sampling": {"temperature": 0.8}},
        {"split": "audit"},
    ],
)
def test_reports_of_different_circumstances_are_not_compared(change: dict[str, object]) -> None:
    ours: EvaluationReport = report({"a": "passed"})
    with pytest.raises(ValueError, match="cannot be compared"):
        pair(ours, ours.model_copy(update=change))
