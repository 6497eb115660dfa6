"""Evaluation reports with planned outcomes, as the evaluator would have written them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from engine.api_learning import EvaluationReport, RateRecord, Sampled, SampleOutcome, Split
from engine.evaluation.metrics import wilson

DIGEST = "a" * 64
_LETTERS = {"p": SampleOutcome.PASSED, "f": SampleOutcome.FAILED, "i": SampleOutcome.INFRASTRUCTURE}


def planned(groups: Mapping[str, str], *, templates: int = 10, **changes: object) -> EvaluationReport:
    """Group -> one letter for each of its tasks: p passed, f failed, i infrastructure. Templates go round."""
    sampled = [
        Sampled(
            task=f"{group}-{i}", template=f"{group}-t{i % templates}", group=group, sample=0, outcome=_LETTERS[letter]
        )
        for group, letters in groups.items()
        for i, letter in enumerate(letters)
    ]
    return of_samples(sampled, **changes)


def report(outcomes: Mapping[str, str], **changes: object) -> EvaluationReport:
    """Task -> outcome; each task is a template of its own, in group `in`."""
    sampled = [
        Sampled(task=task, template=task, group="in", sample=0, outcome=SampleOutcome(outcome))
        for task, outcome in outcomes.items()
    ]
    return of_samples(sampled, **changes)


def of_samples(sampled: list[Sampled], **changes: object) -> EvaluationReport:
    """The base model's report on these samples, changed as asked."""
    counted = [one for one in sampled if one.outcome is not SampleOutcome.INFRASTRUCTURE]
    passed = [one for one in counted if one.outcome is SampleOutcome.PASSED]
    fields: dict[str, object] = {
        "key": hashlib.sha256(repr((sampled, sorted(changes.items()))).encode()).hexdigest(),
        "suite": "runekit",
        "suite_digest": "0" * 64,
        "split": Split.GATE,
        "seed": 0,
        "adapter": "base",
        "adapter_digest": None,
        "digest_proven": True,
        "base_model": "tiny",
        "backend": "scripted",
        "sampling": {"temperature": 0.0},
        "tasks": len(sampled),
        "samples_per_task": 1,
        "k": 1,
        "pass_at_1": rate(len(passed), len(counted)),
        "pass_at_k": len(passed) / len(counted) if counted else 0.0,
        "by_group": {},
        "by_template": {},
        "infrastructure": len(sampled) - len(counted),
        "no_data": not counted,
        "tokens": 0,
        "seconds": 0.0,
        "sampled": tuple(sampled),
        "created_at": "2026-01-01T00:00:00Z",
    }
    return EvaluationReport.model_validate(fields | changes)


def rate(passed: int, total: int) -> RateRecord:
    """As a report carries it."""
    found = wilson(passed, total)
    return RateRecord(passed=found.passed, total=found.total, value=found.value, low=found.low, high=found.high)
