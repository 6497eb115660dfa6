"""The bar of the proof: met by what should meet it, and by nothing else."""

from __future__ import annotations

import pytest
from support.learning_reports import planned

from benchmarks.learn_table import COLUMNS, Condition, Row, bar, evidence, render

CONTROLS = ("random of equal norm", "shuffled labels", "other domain", "base, documentation in the prompt")
GOOD = {"in": 95, "deeper": 10, "paraphrase": 70, "other": 0, "general": 50, "humaneval": 10}
BASE = {"in": 0, "deeper": 0, "paraphrase": 0, "other": 0, "general": 55, "humaneval": 10}


def row(name: str, **passed: int) -> Row:
    """A condition that passes so many of a hundred on each probe."""
    reports = {probe: planned({probe: "p" * count + "f" * (100 - count)}) for probe, count in passed.items()}
    return Row(Condition(name, name, tuple(passed)), reports)


def table(**changes: dict[str, int]) -> list[Row]:
    """A table that meets the whole bar, changed as asked; names have `_` for spaces."""
    passed = {
        "base": BASE,
        **{name: {"in": 2} for name in CONTROLS},
        "other domain": {"in": 0, "other": 96, "general": 50, "humaneval": 10},
        "adapter, seed 1": GOOD,
        "merged: cat": {"in": 93, "other": 90},
        "merged: ties": {"in": 40, "other": 30},
        "best of loop": {**GOOD, "deeper": 61},
    }
    return [row(name, **{**probes, **changes.get(name, {})}) for name, probes in passed.items()]


def unmet(rows: list[Row]) -> list[str]:
    return [line.text for line in bar(rows) if not line.met]


def test_a_table_that_meets_it() -> None:
    assert unmet(table()) == []


@pytest.mark.parametrize(
    ("name", "probes", "said"),
    [
        ("base", {"in": 5}, "under 5 %"),
        *((name, {"in": 5}, name) for name in CONTROLS),
        ("adapter, seed 1", {"in": 89}, "90 % of unseen compositions"),
        ("adapter, seed 1", {"paraphrase": 59}, "unseen wordings"),
        ("adapter, seed 1", {"general": 30}, "general falls"),
        ("adapter, seed 1", {"humaneval": 1}, "humaneval falls"),
        ("merged: cat", {"other": 80}, "the best merge"),
        ("best of loop", {"deeper": 49}, "deeper"),
    ],
)
def test_each_line_can_be_missed(name: str, probes: dict[str, int], said: str) -> None:
    (line,) = unmet(table(**{name: probes}))
    assert said in line


def test_the_gain_is_an_e_value_and_everything_is_in_the_table() -> None:
    rows = table()
    assert evidence(rows[5], rows[0]) > 1e20
    text = render(rows, bar(rows))
    assert all(column in text for column in COLUMNS)
    assert "| adapter, seed 1 | 95/100 [89%, 98%] |" in text and "NOT met" not in text
