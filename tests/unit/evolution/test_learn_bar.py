"""The bar of the proof: met by what should meet it, and by nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.learning_reports import planned
from support.proof_tables import evidence, results

from benchmarks.learn_bar import bar
from benchmarks.learn_results import Results, Role, Row, best_merge
from engine.api_evolution import Evidence


def unmet(found: Results) -> list[str]:
    return [line.text for line in bar(found) if not line.met]


def with_report(found: Results, name: str, probe: str, letters: str, **changes: object) -> Results:
    """One report replaced by one with these outcomes."""
    rows = [
        Row(row.condition, {**row.reports, probe: planned({probe: letters}, **changes)})
        if row.condition.name == name
        else row
        for row in found.rows
    ]
    return replace(found, rows=tuple(rows))


def test_what_meets_it_meets_all_of_it_and_every_line_has_its_figure() -> None:
    lines = bar(results())
    assert [line.text for line in lines if not line.met] == []
    texts = " | ".join(line.text for line in lines)
    assert "adapter, seed 1: at least 90 % of unseen compositions: 95/100 = 95 %" in texts
    assert "merged: cat) keeps at least 90 % of each parent's gain: 98% of the first's, 94% of the second's" in texts
    assert "deeper compositions: 61/100 = 61 %, before it 10/100 = 10 %" in texts


@pytest.mark.parametrize(
    ("name", "probes", "said"),
    [
        ("base, documentation", {"in": 5}, "control fails: base, documentation: 5/100"),
        ("random", {"in": 5}, "control fails: random"),
        ("shuffled", {"in": 5}, "control fails: shuffled"),
        ("other domain", {"in": 5}, "control fails: other domain"),
        ("random parent", {"other": 5}, "control fails on other: random parent"),
        ("zero", {"general": 54}, "differs from base in the outcome of 1 of 200"),
        ("adapter, seed 1", {"in": 89}, "seed 1: at least 90 % of unseen compositions"),
        ("adapter, seed 2", {"in": 89}, "seed 2: at least 90 % of unseen compositions"),
        ("adapter, seed 1", {"paraphrase": 59}, "unseen wordings"),
        ("adapter, seed 1", {"general": 49}, "seed 1: general does not fall"),
        ("adapter, seed 1", {"humaneval": 1}, "seed 1: humaneval does not fall"),
        ("best of loop", {"humaneval": 1}, "best of loop: humaneval does not fall"),
        ("merged: cat", {"other": 80}, "the best merge"),
        ("best of loop", {"deeper": 49}, "deeper"),
    ],
)
def test_each_line_can_be_missed(name: str, probes: dict[str, int], said: str) -> None:
    (line,) = unmet(results({name: probes}))
    assert said in line


def test_a_base_model_that_passes_something_spoils_the_proof() -> None:
    assert any("under 5 %" in line for line in unmet(results({"base": {"in": 5}})))


def test_an_anchor_falls_by_pairs_and_not_by_its_rate_alone() -> None:
    """15 lost and 10 won is noise (p 0.42); the same fall of 5 with none won is one (p 0.06 at 5, 0.03 at 6)."""
    mixed = "f" * 15 + "p" * 40 + "p" * 10 + "f" * 35  # the base passes the first 55
    assert unmet(with_report(results(), "adapter, seed 1", "general", mixed)) == []
    assert len(unmet(results({"adapter, seed 1": {"general": 49}}))) == 1


def test_the_same_rate_on_other_tasks_is_not_the_same_adapter() -> None:
    (line,) = unmet(with_report(results(), "zero", "general", "f" + "p" * 55 + "f" * 44))
    assert "differs from base in the outcome of 2 of 200" in line


def test_a_method_is_its_mean_over_the_seeds_and_not_its_best_one() -> None:
    assert [row.condition.name for row in best_merge(results())] == ["merged: cat"]
    lucky = results({"merged: cat": {"in": 10}})
    assert "merged: dare, mean of 2 seeds" in " ".join(unmet(lucky))


def ruled(**changed: Evidence) -> list[str]:
    """Lines about promotions that are missed where the evidence is so."""
    found = results()
    return unmet(replace(found, evidence={**found.evidence, **changed}))


def test_a_memoriser_must_be_refused_and_for_that_reason() -> None:
    for wrong in (evidence(memoriser=True, verdict="proven"), evidence(memoriser=False, verdict="refused")):
        (line,) = ruled(short=wrong)
        assert line.startswith("the memoriser (adapter after 40 steps) is refused") and "deeper 1/100" in line


def test_nobody_gets_to_domain_without_a_gain_on_deeper_compositions() -> None:
    (line,) = ruled(first=evidence(memoriser=True, verdict="proven"))
    assert "by its deeper compositions or not at all: 10/100" in line
    assert len(ruled(first=evidence(memoriser=False, ood_delta=0.1, ood_low=-0.02))) == 1
    assert ruled(first=evidence(memoriser=False)) == []
    assert ruled(first=evidence(memoriser=False, ood_low=-0.02, verdict="not-proven")) == []


def test_after_the_loop_a_memoriser_is_still_one() -> None:
    (line,) = ruled(after=evidence(memoriser=True))
    assert line.startswith("after the loop")


def test_a_report_without_a_proven_digest_and_an_hour_too_long_are_said() -> None:
    (line,) = unmet(with_report(results(), "random", "in", "f" * 100, digest_proven=False))
    assert "the published file" in line
    (line,) = unmet(results(seconds={"train runekit-1": 3601.0}))
    assert "under 60 minutes: 60.0" in line


def test_without_a_loop_its_lines_are_not_asked_for() -> None:
    found = results()
    rows = tuple(row for row in found.rows if row.condition.role is not Role.LOOP)
    assert unmet(replace(found, rows=rows, loop=None, evidence={"first": found.evidence["first"]})) == []
