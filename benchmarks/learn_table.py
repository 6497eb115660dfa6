"""The tables of the proof, as Markdown. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from benchmarks.learn_bar import Line, ruling
from benchmarks.learn_results import Results, Row
from engine.api_evolution import ImproveReport, ImproveRound, TextDrift

STAGES = ("rehearse", "train", "make", "merge", "score", "evidence", "improve", "drift")
"""First words of what is timed, in the order of the proof."""


def render(results: Results, lines: Iterable[Line], wall_seconds: float) -> str:
    """Rates, e-values, promotions, the loop, plain text, times, and the bar."""
    sections = (
        _rates(results),
        _evidence(results),
        _promotions(results),
        _loop(results.loop) if results.loop else [],
        _drift(results.drift),
        _times(results.seconds, wall_seconds),
        [f"- {'met' if line.met else 'NOT met'}: {line.text}" for line in lines],
    )
    return "\n\n".join("\n".join(section) for section in sections if section)


def _head(first: str, columns: Sequence[str]) -> list[str]:
    return [f"| {first} | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]


# --- scores -------------------------------------------------------------------------------------------------------


def _rates(results: Results) -> list[str]:
    """With Wilson intervals; after rows that differ in the seed only, their mean and range."""
    lines = _head("passed [95 % Wilson]", results.columns)
    families = results.families()
    for row in results.rows:
        lines.append(f"| {row.condition.name} | " + " | ".join(_cells(row, results.columns)) + " |")
        rows = families.get(row.condition.family, ())
        if rows and row is rows[-1]:
            spread = (_spread(rows, column) for column in results.columns)
            lines.append(f"| {row.condition.family}: mean of {len(rows)} seeds (range) | " + " | ".join(spread) + " |")
    return lines


def _cells(row: Row, columns: Sequence[str]) -> Iterator[str]:
    for column in columns:
        found = row.rate(column) if column in row.reports else None
        yield "" if found is None else f"{found.passed}/{found.total} [{found.low:.0%}, {found.high:.0%}]"


def _spread(rows: Sequence[Row], column: str) -> str:
    shares = [row.share(column) for row in rows if column in row.reports]
    if len(shares) < 2:
        return ""
    return f"{sum(shares) / len(shares):.0%} ({min(shares):.0%} to {max(shares):.0%})"


def _evidence(results: Results) -> list[str]:
    """Of the gain where one is expected, else of the loss."""
    lines = _head("e-value against base (20 proves)", results.columns)
    for row in results.rows:
        if row is results.base:
            continue
        found = dict(results.against_base(row))
        cells: list[str] = []
        for column in results.columns:
            versus = found.get(column)
            if versus is None:
                cells.append("")
            elif row.condition.should_gain(column):
                cells.append(f"gain {versus.gain:.3g}")
            else:
                cells.append(f"loss {versus.loss:.3g}")
        lines.append(f"| {row.condition.name} | " + " | ".join(cells) + " |")
    return lines


# --- the rest -----------------------------------------------------------------------------------------------------


def _promotions(results: Results) -> list[str]:
    lines: list[str] = []
    for found in results.evidence.values():
        lines.append(f"Promotion of {found.adapter} to domain: {ruling(found)}")
        lines += [f"- {reason}" for reason in found.reasons]
    return lines


def _loop(report: ImproveReport) -> list[str]:
    return ["The loop:", *(f"- {round_line(one)}" for one in report.rounds)]


def round_line(one: ImproveRound) -> str:
    """What one round came to: who solved what, what a task cost before and after, and what became of the adapter."""
    solved = (
        f"{one.solved_by_model} tasks solved by the model, {one.solved_by_explorer} by the explorer, of {one.tasks}"
    )
    after = "not measured" if one.calls_per_task_after is None else f"{one.calls_per_task_after:.2f}"
    calls = f"calls per solved task {one.calls_per_task_before:.1f} before, {after} after"
    return f"round {one.number}: {solved}; {calls}; {one.adapter_id or 'nothing trained'}: {one.reason}"


def _drift(drifts: Mapping[str, TextDrift]) -> list[str]:
    if not drifts:
        return []
    lines = _head("general text", ("perplexity", "of the base model", "change", "KL(base, adapter), nats per token"))
    for name, found in drifts.items():
        cells = (f"{found.adapter_perplexity:.4g}", f"{found.base_perplexity:.4g}", found.change, f"{found.kl:.3g}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def _times(seconds: Mapping[str, float], wall_seconds: float) -> list[str]:
    """By stage. What an earlier run did counts as it took then."""
    stages = {stage: [took for what, took in seconds.items() if what.split()[0] == stage] for stage in STAGES}
    parts = ", ".join(f"{stage} {sum(took):.0f} ({len(took)})" for stage, took in stages.items() if took)
    total = sum(seconds.values()) / 60
    return [
        f"Seconds of each stage (things done): {parts}; together {total:.1f} min; this command {wall_seconds:.0f} s."
    ]
