"""What the options of `rune-tui evolve` and `rune-tui evidence` make, and what their results say."""

from __future__ import annotations

import pytest

from engine.api_evolution import (
    AnchorResult,
    Contamination,
    ControlResult,
    Evidence,
    EvidenceRequest,
    NoiseFloor,
    PartContamination,
    SweepSummary,
    TextDrift,
    TypeSummary,
    Verdict,
)
from engine.api_learning import RateRecord
from engine.errors import ExitCode, InputError
from rune_tui.cli import run
from rune_tui.commands import evidence as evidence_command
from rune_tui.commands import evolve as evolve_command

RATE = RateRecord(passed=9, total=10, value=0.9, low=0.6, high=0.98)
NONE = RateRecord(passed=0, total=0, value=0, low=0, high=1)
CONTROLS = (
    ControlResult(name="base", rate=RATE),
    ControlResult(name="a trained on", rate=NONE, note="not measured: no room"),
)
SUMMARY = SweepSummary(
    task_types={
        "sort": TypeSummary(
            merged=1, pruned=2, active=4, child="sort-g1", child_rate=RATE, controls=CONTROLS, reasons=("kept",)
        )
    },
    generation=1,
    seconds=61.2,
)
EVIDENCE = Evidence(
    adapter="a", adapter_digest="d" * 64, incumbent="base", to_tier="domain", suite="lists", seed=3, tasks=25, wins=9,
    losses=1, ties=15, e_value=31.2, threshold=20.0, difference=0.32, difference_low=0.1, difference_high=0.5,
    adapter_rate=RATE, incumbent_rate=RATE, ood_delta=0.25, ood_low=0.1, memoriser=False,
    anchors=(AnchorResult(name="general", adapter=RATE, reference=RATE, difference_low=-0.02, kept=True),),
    contamination=Contamination(checked=True, rows=228, exact=0, near=0), verdict=Verdict.PROVEN, reasons=("it wins",),
)  # fmt: skip


def test_a_summary_says_what_was_done_and_what_not() -> None:
    assert evolve_command.summary_lines(SUMMARY) == [
        "sort: 2 pruned, 1 merged, 4 in use; nothing promoted",
        "  sort-g1: 9/10 [0.600, 0.980]",
        "  control base: 9/10",
        "  control a trained on: 0/0 (not measured: no room)",
        "  kept",
        "generation 1, 61 s",
    ]
    assert evolve_command.summary_lines(SweepSummary(task_types={}, generation=0, seconds=0)) == [
        "There is no adapter to evolve."
    ]


def test_evidence_begins_with_its_verdict() -> None:
    lines = evidence_command.evidence_lines(EVIDENCE)
    assert lines[0] == "proven: a to domain, against base"
    assert "9 wins, 1 losses, 15 ties of 25 tasks; e-value 31.2 of 20" in lines
    assert "anchor general: 9/10 [0.600, 0.980] against 9/10 [0.600, 0.980], difference at least -0.020: kept" in lines
    assert lines[-2:] == ["contamination: 0 exact and 0 near, of 228 rows learned from", "- it wins"]
    unknown = EVIDENCE.model_copy(update={"contamination": Contamination(checked=False, rows=0, exact=0, near=0)})
    assert "contamination: not known what it learned from" in evidence_command.evidence_lines(unknown)


def test_evidence_says_what_else_was_learned_from() -> None:
    """Negative control: evidence of a program that did not look says nothing of it."""
    clean = PartContamination(part="lists, out of distribution", checked=True, rows=228, exact=0, near=0)
    shared = PartContamination(part="general", checked=True, rows=228, exact=3, near=2)
    (anchor,) = EVIDENCE.anchors
    unusable = anchor.model_copy(update={"kept": False, "usable": False})
    found = EVIDENCE.model_copy(update={"contaminations": (clean, shared), "anchors": (unusable,)})
    lines = evidence_command.evidence_lines(found)
    assert lines[-3:-1] == [
        "contamination of lists, out of distribution: 0 exact and 0 near",
        "contamination of general: 3 exact and 2 near, left out",
    ]
    assert any(line.endswith("-0.020: not usable, it learned from its tasks") for line in lines)
    assert not any("contamination of" in line for line in evidence_command.evidence_lines(EVIDENCE))


@pytest.mark.parametrize(
    ("options", "adapters", "sentence"),
    [
        ({"seed": -1}, (), "--seed -1: "),
        ({"task_type": "../x"}, (), "--task-type '../x': "),
        ({}, ("a b",), "ADAPTER "),
    ],
)
def test_a_bad_option_of_evolve_is_named(options: dict[str, object], adapters: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(InputError) as refused:
        evolve_command.read_request(adapters, options)
    assert str(refused.value).startswith(sentence)


def test_a_bad_option_of_evidence_is_named() -> None:
    good: dict[str, object] = {"adapter": "a", "suite": "mine"}
    assert evidence_command.read_request(good | {"to_tier": None, "anchors": ("general",)}).anchors == ("general",)
    for options, sentence in (({"candidates": 0}, "--candidates 0: "), ({"anchors": ("No!",)}, "--anchor 'No!': ")):
        with pytest.raises(InputError) as refused:
            evidence_command.read_request(good | options)
        assert str(refused.value).startswith(sentence)


def test_every_tier_can_be_named_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiers go task, domain, project: the command takes each, and turns it into the request's."""
    asked: list[EvidenceRequest] = []

    def read(options: dict[str, object]) -> EvidenceRequest:
        asked.append(read_request(options))
        raise InputError("read, and no engine is needed")

    read_request = evidence_command.read_request
    monkeypatch.setattr(evidence_command, "read_request", read)
    for tier in ("task", "domain", "project"):
        assert run(["evidence", "a", "--suite", "lists", "--to", tier, "--noise-floor"]) == ExitCode.USAGE
    assert [one.to_tier for one in asked] == ["task", "domain", "project"]
    assert all(one.noise_floor for one in asked)
    assert run(["evidence", "a", "--suite", "lists", "--to", "galaxy"]) == ExitCode.USAGE and len(asked) == 3


def test_evidence_shows_looks_noise_and_the_general_text() -> None:
    drift = TextDrift(
        text_digest="0" * 64,
        base_digest="0" * 64,
        tokens=2021,
        base_perplexity=21.19,
        adapter_perplexity=21.49,
        kl=0.017,
    )
    noise = NoiseFloor(seeds=(1, 2, 3), compared=75, disagreed=3, rate=0.04, low=0.014, high=0.111)
    lines = evidence_command.evidence_lines(
        EVIDENCE.model_copy(update={"text": drift, "noise": noise, "earlier_looks": 1, "threshold": 40.0})
    )
    assert "9 wins, 1 losses, 15 ties of 25 tasks; e-value 31.2 of 40 (look 2)" in lines
    assert "difference +0.320 [+0.100, +0.500]; base differs from itself by 0.040 [0.014, 0.111]" in lines
    assert "general text: perplexity 21.49 against 21.19 (+1.4%), KL drift 0.017 nats per token" in lines
    unknown = evidence_command.evidence_lines(EVIDENCE.model_copy(update={"text_unmeasured": "No room."}))
    assert "general text: not measured: No room." in unknown


def test_usage_errors_have_the_usage_code() -> None:
    assert run(["evidence"]) == ExitCode.USAGE and run(["evolve", "--nothing"]) == ExitCode.USAGE
