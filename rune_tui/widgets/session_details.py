"""A session and its attempts as a text to read: what was asked, written, run and found."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import JsonValue

from engine.api_models import AttemptRecord, SessionRecord, Trajectory
from rune_tui.terminal_text import clean
from rune_tui.widgets.code import code_rows
from rune_tui.widgets.row import Row, Span, Tone, row
from rune_tui.widgets.session_rows import clock, standing

MAX_SECTION_LINES = 400
"""Of one section of one attempt; the export has everything."""


def details_rows(trajectory: Trajectory) -> list[Row]:
    """The session, then every attempt; the rows that begin an attempt have the key `attempt/<number>`."""
    rows = list(_session(trajectory.session))
    for attempt in trajectory.attempts:
        rows.extend(_attempt(attempt))
    if not trajectory.attempts:
        rows.append(row(" No attempt yet.", Tone.DIM))
    if trajectory.session.code:
        rows += [row(""), row("══ final code", Tone.STRONG), *code_rows(trajectory.session.code, "  ")]
    return rows


def _session(record: SessionRecord) -> Iterator[Row]:
    mark, word, tone = standing(record)
    yield Row((Span(f"{mark} {word}", tone), Span(f"  {record.id}  task {record.task.id}", Tone.STRONG)))
    facts = (
        f"{record.attempts} attempts",
        f"{record.tokens} tokens",
        clock(record.seconds),
        f"mode {record.task.mode}",
        f"backend {record.backend or '-'}",
        f"model {record.model or '-'}",
        f"adapter {record.adapter or 'none'}",
        f"sandbox {record.sandbox_level or '-'}",
    )
    yield Row((Span("  " + " · ".join(facts), Tone.DIM),), indent=2)
    if record.adapter_reason:
        yield Row((Span(f"  {record.adapter_reason}", Tone.DIM),), indent=2)
    if record.reason:
        yield Row((Span(f"  {record.reason}", Tone.WARN),), indent=2)
    for phase in record.phases:
        score = "" if phase.score is None else f" score {phase.score:.2f}"
        text = f"  {phase.phase:<10} {phase.state:<8} {phase.iterations}×{score} {phase.detail}"
        yield Row((Span(text),), indent=22)
    yield from _section("task", record.task.prompt)
    yield row("")


def _result(attempt: AttemptRecord) -> tuple[str, Tone]:
    if attempt.passed:
        return "✓", Tone.GOOD
    return ("✗", Tone.BAD) if attempt.verdict else ("·", Tone.DIM)  # a phase that runs nothing fails nothing


def _attempt(attempt: AttemptRecord) -> Iterator[Row]:
    mark, tone = _result(attempt)
    place = f"{attempt.phase} · {attempt.subtask}" if attempt.subtask else str(attempt.phase)
    yield Row(
        (
            Span(f"══ {mark} attempt {attempt.number}", tone),
            Span(f"  {place}", Tone.STRONG),
            Span(
                f"  {attempt.prompt_tokens}+{attempt.completion_tokens} tokens"
                f" · model {attempt.generate_seconds:.1f} s · run {attempt.execute_seconds:.1f} s"
                + (f" · sandbox {attempt.sandbox_level}" if attempt.sandbox_level else ""),
                Tone.DIM,
            ),
        ),
        f"attempt/{attempt.number}",
        indent=3,
    )
    if attempt.code:
        yield row("  code", Tone.ACCENT)
        yield from code_rows(attempt.code, "    ")[:MAX_SECTION_LINES]
    else:
        yield from _section("answer", attempt.response)
    yield from _verdict(attempt.verdict)
    yield from _section("diagnosis", attempt.diagnosis)
    yield from _section("stdout", attempt.stdout)
    yield from _section("stderr", attempt.stderr)
    yield row("")


def _verdict(verdict: dict[str, JsonValue]) -> Iterator[Row]:
    if not verdict:
        return
    words = [str(verdict.get("strength", ""))]
    words += [f"{name} {verdict[name]}" for name in ("ran", "failed", "skipped", "error") if verdict.get(name)]
    words += ["timed out"] if verdict.get("timed_out") else []
    yield row("  verdict", Tone.ACCENT)
    yield row("    " + " · ".join(word for word in words if word))
    failures = verdict.get("failures")
    for failure in failures if isinstance(failures, list | tuple) else ():
        if isinstance(failure, dict):
            yield Row((Span("    " + _failure(failure), Tone.BAD),), indent=6)


def _failure(failure: dict[str, JsonValue]) -> str:
    told = [f"{failure.get('name', '')}: {failure.get('kind', '')} {failure.get('message', '')}".rstrip()]
    told += [f"{name} {failure[name]}" for name in ("expected", "got", "line") if failure.get(name) is not None]
    return " · ".join(told)


def _section(title: str, text: str) -> Iterator[Row]:
    if not text.strip():
        return
    yield row(f"  {title}", Tone.ACCENT)
    lines = clean(text).rstrip("\n").split("\n")
    yield from (Row((Span("    " + line),), indent=4) for line in lines[:MAX_SECTION_LINES])
    if len(lines) > MAX_SECTION_LINES:
        yield row(f"    … {len(lines) - MAX_SECTION_LINES} more lines; the export has them", Tone.DIM)
