"""What the rounds of `improve` came to, in words: the same on the command line and on the screen. Pure."""

from __future__ import annotations

from engine.api_evolution import Evidence, ImproveReport, ImproveRound
from rune_tui.promotion_text import Line, Weight


def improve_lines(report: ImproveReport) -> list[Line]:
    """Each round in a few lines, then what is in use."""
    lines = [line for one in report.rounds for line in round_lines(one)]
    return [*lines, (f"in use: {report.adapter_id or 'the base model'}", Weight.HEADING)]


def round_lines(one: ImproveRound) -> list[Line]:
    """Tasks that were verified, the adapter and its job, what the gate said, and what was done about it."""
    verified = one.solved_by_model + one.solved_by_explorer
    lines = [
        (
            f"round {one.number}: {verified} of {one.tasks} tasks verified"
            f" ({one.solved_by_model} by the model, {one.solved_by_explorer} by the explorer)",
            Weight.HEADING,
        )
    ]
    if one.adapter_id is not None:
        after = "none solved" if one.calls_per_task_after is None else f"{one.calls_per_task_after:.1f}"
        lines.append((f"  trained {one.adapter_id} by {one.job_id or 'nobody knows which job'}", Weight.PLAIN))
        lines.append((f"  programs run per solved task: {one.calls_per_task_before:.1f}, now {after}", Weight.PLAIN))
    if one.evidence is not None:
        lines.append(_gate_line(one.evidence))
    return [*lines, (f"  {one.reason}", Weight.GOOD if one.promoted else Weight.WARN)]


def _gate_line(evidence: Evidence) -> Line:
    ours, theirs = evidence.adapter_rate, evidence.incumbent_rate
    return (
        f"  gate: {ours.passed}/{ours.total} against {evidence.incumbent} {theirs.passed}/{theirs.total},"
        f" e-value {evidence.e_value:.4g} of {evidence.threshold:g}: {evidence.verdict.value}",
        Weight.PLAIN,
    )
