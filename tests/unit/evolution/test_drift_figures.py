"""Perplexity and KL divergence against numbers worked out by hand, and what is said of adapters by them."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from engine.evolution.drift.figures import ROWS, WORST, Sums, compare, perplexity, windows
from engine.evolution.drift.text import general_text, text_digest

BASE = [[Fraction(1, 2), Fraction(1, 4), Fraction(1, 4)], [Fraction(1, 8), Fraction(3, 4), Fraction(1, 8)]]
CANDIDATE = [[Fraction(1, 4), Fraction(1, 2), Fraction(1, 4)], [Fraction(1, 4), Fraction(1, 4), Fraction(1, 2)]]
TARGETS = np.array([0, 1])


def logits(rows: list[list[Fraction]], shift: float = 0.0) -> np.ndarray:
    """Any logits whose softmax these are: adding a constant to a row changes nothing."""
    return np.log(np.array(rows, dtype=np.float64)) + shift


def test_two_positions_by_hand() -> None:
    """Base gives the tokens 1/2 and 3/4, the candidate 1/4 and 1/4: perplexities sqrt(8/3) and 4.

    KL by hand: 1/2 ln 2 + 1/4 ln 1/2 + 1/4 ln 1 = 1/4 ln 2 of the first row, and of the second
    1/8 ln 1/2 + 3/4 ln 3 + 1/8 ln 1/4 = 3/4 ln 3 - 3/8 ln 2.
    """
    found = compare(logits(BASE), logits(CANDIDATE, shift=7.5), TARGETS)
    assert found.positions == 2
    assert found.base_perplexity == pytest.approx(math.sqrt(8 / 3), rel=1e-12)
    assert found.candidate_perplexity == pytest.approx(4.0, rel=1e-12)
    first, second = math.log(2) / 4, 3 * math.log(3) / 4 - 3 * math.log(2) / 8
    assert found.mean_kl == pytest.approx((first + second) / 2, rel=1e-12)


def test_the_divergence_is_from_the_base_and_not_the_other_way() -> None:
    """KL(q || p) of the same two rows is another number: the direction is not exchanged."""
    there, back = (compare(logits(a), logits(b), TARGETS).mean_kl for a, b in ((BASE, CANDIDATE), (CANDIDATE, BASE)))
    by_hand = (math.log(2) / 4 + (math.log(2) / 4 - math.log(3) / 4 + math.log(4) / 2)) / 2
    assert back == pytest.approx(by_hand, rel=1e-12) and abs(there - back) > 0.01


def test_the_same_model_drifts_by_nothing_and_many_rows_are_as_one() -> None:
    random = np.random.default_rng(5)
    rows = 2 * ROWS + 3
    base, other = random.standard_normal((2, rows, 50)).astype(np.float32) * 3
    targets = random.integers(0, 50, rows)
    same = compare(base, base, targets)
    assert same.mean_kl == 0.0 and same.base_perplexity == same.candidate_perplexity
    whole = compare(base, other, targets)
    single = sum((compare(base[n : n + 1], other[n : n + 1], targets[n : n + 1]) for n in range(rows)), Sums())
    assert whole.kl == pytest.approx(single.kl) and whole.candidate == pytest.approx(single.candidate)
    p = np.exp(base.astype(float)) / np.exp(base.astype(float)).sum(1, keepdims=True)
    q = np.exp(other.astype(float)) / np.exp(other.astype(float)).sum(1, keepdims=True)
    assert whole.mean_kl == pytest.approx(float((p * np.log(p / q)).sum(1).mean()), rel=1e-9)
    assert whole.candidate_perplexity == pytest.approx(float(np.exp(-np.log(q[np.arange(rows), targets]).mean())))


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_a_candidate_that_gives_no_numbers_is_the_worst_there_is(broken: float) -> None:
    """Not a perplexity that no comparison is true of: NaN > 3 % would be no."""
    values = logits(CANDIDATE)
    values[1, 2] = broken
    found = compare(logits(BASE), values, TARGETS)
    assert found.candidate_perplexity == found.mean_kl == WORST and found.base_perplexity < 2
    assert perplexity(1e9, 1) == WORST


def test_a_token_that_the_base_excludes_adds_nothing() -> None:
    base = np.array([[0.0, 0.0, -np.inf]])
    found = compare(base, np.zeros((1, 3)), np.array([0]))
    assert found.mean_kl == pytest.approx(math.log(3 / 2))


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot be compared"):
        compare(logits(BASE), logits(BASE)[:1], TARGETS)


def test_windows_cover_the_text_and_a_last_single_token_is_left_out() -> None:
    assert windows(range(7), 3) == [(0, 1, 2), (3, 4, 5)]
    assert windows(range(8), 3) == [(0, 1, 2), (3, 4, 5), (6, 7)]
    assert windows([4], 3) == []


def test_the_text_is_english_and_python_and_its_digest_is_of_its_words() -> None:
    text = general_text()
    assert 8_000 < len(text) < 10_000 and "def " in text and "The harbour" in text
    assert text_digest(text) != text_digest(text + " ") and len(text_digest(text)) == 64
