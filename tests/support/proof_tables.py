"""Results of the proof with planned scores, for the tests of its tables and its bar."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from support.learning_reports import planned, rate

from benchmarks.learn_results import Condition, Results, Role, Row
from engine.api_evolution import Contamination, Evidence, ImproveReport, ImproveRound, TextDrift, Verdict

COLUMNS = ("in", "deeper", "paraphrase", "other", "general", "humaneval")
BASE = {"in": 0, "deeper": 0, "paraphrase": 0, "other": 0, "general": 55, "humaneval": 10}
GOOD = {"in": 95, "deeper": 10, "paraphrase": 70, "other": 0, "general": 50, "humaneval": 10}
PLANNED: Mapping[str, tuple[Role, Mapping[str, int], str]] = {
    "base": (Role.BASE, BASE, ""),
    "base, documentation": (Role.BOOK, {"in": 1}, ""),
    "zero": (Role.ZERO, {"in": 0, "general": 55}, ""),
    "random": (Role.RANDOM, {"in": 0}, ""),
    "shuffled": (Role.SHUFFLED, {"in": 2}, ""),
    "other domain": (Role.OTHER, {"in": 0, "other": 96, "general": 50, "humaneval": 10}, ""),
    "adapter, seed 1": (Role.ADAPTER, GOOD, "adapter"),
    "adapter, seed 2": (Role.ADAPTER, {"in": 91, "deeper": 8, "paraphrase": 66}, "adapter"),
    "adapter after 40 steps": (Role.SHORT, {"in": 30, "deeper": 1}, ""),
    "merged: cat": (Role.MERGE, {"in": 93, "other": 90}, "merged: cat"),
    "merged: dare": (Role.MERGE, {"in": 95, "other": 96}, "merged: dare"),
    "merged: dare, seed 2": (Role.MERGE, {"in": 21, "other": 30}, "merged: dare"),
    "peft": (Role.PEFT, {"in": 0, "other": 0}, ""),
    "random parent": (Role.RANDOM_PARENT, {"in": 90, "other": 0}, ""),
    "best of loop": (Role.LOOP, {**GOOD, "deeper": 61}, ""),
}
"""Passed of a hundred; meets the whole bar."""


def row(name: str, role: Role, passed: Mapping[str, int], family: str = "") -> Row:
    """A condition that passes the first so many of a hundred tasks on each probe."""
    reports = {probe: planned({probe: "p" * count + "f" * (100 - count)}) for probe, count in passed.items()}
    return Row(Condition(name, name, tuple(passed), role, family), reports)


def results(changes: Mapping[str, Mapping[str, int]] | None = None, **fields: Any) -> Results:
    """What meets the whole bar, with some scores changed."""
    changed = changes or {}
    rows = [row(name, role, {**passed, **changed.get(name, {})}, fam) for name, (role, passed, fam) in PLANNED.items()]
    known: dict[str, Any] = {
        "evidence": {
            "first": evidence(memoriser=True),
            "short": evidence(memoriser=True, adapter="short-1"),
            "after": evidence(memoriser=False),
        },
        "drift": {"adapter, seed 1": drift(20.4, 0.01)},
        "loop": loop(),
        "seconds": {"train runekit-1": 200.0, "score base on runekit in": 60.0},
    }
    return Results(COLUMNS, tuple(rows), **(known | fields))


def evidence(*, memoriser: bool, **changes: Any) -> Evidence:
    """Of a promotion to the tier `domain`: refused where it is a memoriser's."""
    fields: dict[str, Any] = {
        "adapter": "runekit-1",
        "adapter_digest": "a" * 64,
        "incumbent": "base",
        "to_tier": "domain",
        "suite": "runekit",
        "seed": 1,
        "tasks": 25,
        "wins": 24,
        "losses": 0,
        "ties": 1,
        "e_value": 1e6,
        "threshold": 20.0,
        "difference": 0.96,
        "difference_low": 0.9,
        "difference_high": 1.0,
        "adapter_rate": rate(24, 25),
        "incumbent_rate": rate(0, 25),
        "ood_delta": 0.02 if memoriser else 0.6,
        "ood_low": 0.0 if memoriser else 0.5,
        "memoriser": memoriser,
        "contamination": Contamination(checked=True, rows=250, exact=0, near=0),
        "verdict": Verdict.REFUSED if memoriser else Verdict.PROVEN,
        "reasons": ("Memoriser: it gains on what it was trained for." if memoriser else "It gains.",),
    }
    return Evidence.model_validate(fields | changes)


def drift(perplexity: float, kl: float) -> TextDrift:
    """Against a base model of 20."""
    return TextDrift(
        text_digest="t", base_digest="b", tokens=1900, base_perplexity=20.0, adapter_perplexity=perplexity, kl=kl
    )


def loop() -> ImproveReport:
    """Two rounds, the second not promoted."""
    first = ImproveRound(
        number=1,
        solved_by_model=0,
        solved_by_explorer=346,
        tasks=346,
        calls_per_task_before=812.5,
        calls_per_task_after=1.04,
        job_id="train-1",
        adapter_id="runekit-ab-1",
        evidence=None,
        promoted=True,
        reason="Promoted: e-value 1e6.",
    )
    changes = {"number": 2, "solved_by_model": 300, "solved_by_explorer": 46, "calls_per_task_before": 109.2}
    second = first.model_copy(
        update={**changes, "adapter_id": "runekit-ab-2", "promoted": False, "reason": "Not promoted: no gain."}
    )
    return ImproveReport(rounds=(first, second), adapter_id="runekit-ab-1")
