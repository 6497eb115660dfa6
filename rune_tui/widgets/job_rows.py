"""What the training queue shows of jobs: pure functions from state to rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from functools import lru_cache
from itertools import pairwise

from engine.api_models import RunState
from engine.api_training import TrainJob, TrainPreview, TrainProgress
from rune_tui.device_state import Curve, Workshop, job_eta_s
from rune_tui.widgets.device_rows import gibibytes
from rune_tui.widgets.row import Column, Row, Span, Tone, row, tabular
from rune_tui.widgets.session_rows import clock, short_count

JOB_MARKS: dict[RunState, tuple[str, Tone]] = {
    RunState.QUEUED: ("○", Tone.DIM),
    RunState.RUNNING: ("▲", Tone.ACCENT),
    RunState.SUCCEEDED: ("✓", Tone.GOOD),
    RunState.FAILED: ("!", Tone.BAD),
    RunState.CANCELLED: ("■", Tone.DIM),
    RunState.INTERRUPTED: ("‖", Tone.WARN),
}

PAUSED = "paused"
"""Reason of a job that its user took out of the queue, as the engine gives it."""

SPARK_WIDTH = 12
BARS = " ▁▂▃▄▅▆▇█"
CHART_LINES = 8

COLUMNS = (
    Column("", 2),
    Column("adapter", 0),
    Column("state", 11, priority=1),
    Column("step", 9, right=True, priority=2),
    Column("loss", 6, right=True, priority=1),
    Column("held", 6, right=True, priority=5),
    Column("curve", SPARK_WIDTH, priority=4),
    Column("tok/s", 6, right=True, priority=6),
    Column("left", 7, right=True, priority=3),
)
"""With their headings."""


def job_heading(width: int) -> Row:
    """The names of the columns that are shown at that width."""
    return tabular(COLUMNS, width, "")


def job_rows(workshop: Workshop, width: int, now: datetime) -> list[Row]:
    """One row a job."""
    return [_job_row(workshop, job, width, now) for job in workshop.ordered_jobs()]


def _job_row(workshop: Workshop, job: TrainJob, width: int, now: datetime) -> Row:
    mark, tone = JOB_MARKS[job.state]
    progress = job.progress
    curve = workshop.curves.get(job.id, Curve())
    left = job_eta_s(workshop, job, now)
    cells = (
        (f" {mark}", tone),
        (job.adapter_id, Tone.PLAIN),
        (_word(job), tone),
        (f"{progress.step}/{progress.steps}" if progress else "", Tone.PLAIN),
        (loss_text(progress.loss) if progress else "", Tone.PLAIN),
        (loss_text(progress.held_out_loss) if progress else "", Tone.DIM),
        (sparkline(curve.losses, SPARK_WIDTH), Tone.ACCENT),
        (short_count(round(progress.tokens_per_second)) if progress and _runs(job) else "", Tone.DIM),
        ("" if left is None else clock(left), Tone.DIM),
    )
    columns = [replace(column, text=text, tone=tone) for column, (text, tone) in zip(COLUMNS, cells, strict=True)]
    return tabular(columns, width, job.id)


def _runs(job: TrainJob) -> bool:
    return job.state is RunState.RUNNING


def _word(job: TrainJob) -> str:
    if job.state is RunState.QUEUED and job.position is not None:
        return f"queued #{job.position}"
    return "paused" if is_paused(job) else str(job.state)


def is_paused(job: TrainJob) -> bool:
    """Whether it stopped at a checkpoint, to go on from there."""
    return job.state is RunState.INTERRUPTED and job.reason == PAUSED


def loss_text(loss: float | None) -> str:
    """`1.234`; what is not a number says so."""
    if loss is None:
        return ""
    if not math.isfinite(loss):
        return "NaN" if math.isnan(loss) else "inf"
    return f"{loss:.3f}" if abs(loss) < 100 else f"{loss:.0f}"[:6]


@lru_cache(maxsize=256)
def sparkline(losses: tuple[float, ...], width: int) -> str:
    """The curve in one line; what is not a number is a gap and never moves the others."""
    levels = _levels(losses, width, len(BARS) - 2)
    return "".join(" " if level is None else BARS[level + 1] for level in levels)


def _levels(losses: tuple[float, ...], width: int, top: int) -> list[int | None]:
    """Heights from 0 to `top` of at most `width` columns, each the mean of its share of the points."""
    points = [_mean(part) for part in _parts(losses, width)]
    finite = [point for point in points if point is not None]
    if not finite:
        return [None] * len(points)
    low, high = min(finite), max(finite)
    scale = top / (high - low) if high > low else 0.0
    return [None if point is None else round((point - low) * scale) for point in points]


def _parts(losses: tuple[float, ...], width: int) -> list[tuple[float, ...]]:
    columns = max(1, min(width, len(losses)))
    edges = [len(losses) * index // columns for index in range(columns + 1)]
    return [losses[start:end] for start, end in pairwise(edges)] if losses else []


def _mean(points: tuple[float, ...]) -> float | None:
    finite = [point for point in points if math.isfinite(point)]
    return sum(finite) / len(finite) if finite else None


def chart_rows(losses: tuple[float, ...], width: int) -> list[Row]:
    """The curve in `CHART_LINES` lines, with its highest and lowest loss beside it."""
    finite = [loss for loss in losses if math.isfinite(loss)]
    if not finite:
        return [row("  no step was seen by this terminal yet", Tone.DIM)]
    steps = len(BARS) - 1
    levels = _levels(losses, width, CHART_LINES * steps - 1)
    labels = {CHART_LINES - 1: loss_text(max(finite)), 0: loss_text(min(finite))}
    rows: list[Row] = []
    for line in range(CHART_LINES - 1, -1, -1):
        bars = "".join(" " if level is None else BARS[max(0, min(steps, level + 1 - line * steps))] for level in levels)
        rows.append(Row((Span(f"  {labels.get(line, ''):>6} ", Tone.DIM), Span(bars, Tone.ACCENT))))
    return rows


def job_summary(workshop: Workshop, *, loaded: bool) -> str:
    """For the pane's title."""
    if not loaded:
        return ""
    running = next((job for job in workshop.jobs.values() if _runs(job)), None)
    told = f" · {running.progress.step}/{running.progress.steps}" if running and running.progress else ""
    return f"{int(running is not None)} running{told} · {workshop.queue_length()} queued · {len(workshop.jobs)} in all"


def job_activity(workshop: Workshop, now: datetime) -> tuple[Span, ...]:
    """One line about the job under the cursor: how far it is, or how it ended and why."""
    job = workshop.job
    if job is None:
        return ()
    _, tone = JOB_MARKS[job.state]
    left = job_eta_s(workshop, job, now)
    parts = [
        *([f"{clock(left)} left"] if left is not None else []),
        *(_progress_words(job.progress) if _runs(job) and job.progress else ()),
        *([job.reason] if job.reason and not is_paused(job) else []),
    ]
    spark = sparkline(workshop.curves.get(job.id, Curve()).losses, SPARK_WIDTH).rstrip()
    return (
        Span(f" {job.adapter_id} ", Tone.STRONG),
        Span(_word(job), tone),
        *([Span(f" {spark}", Tone.ACCENT)] if spark else []),
        Span("".join(f" · {part}" for part in parts)),
    )


def _progress_words(progress: TrainProgress) -> Sequence[str]:
    held = [] if progress.held_out_loss is None else [f"held out {loss_text(progress.held_out_loss)}"]
    return (
        f"step {progress.step}/{progress.steps}",
        f"loss {loss_text(progress.loss)}",
        *held,
        f"{progress.tokens_per_second:.0f} tok/s",
        f"{gibibytes(progress.memory_mib)}",
    )


def job_details(job: TrainJob, curve: Curve, width: int) -> list[Row]:
    """All that is known of one job."""
    mark, tone = JOB_MARKS[job.state]
    head = Row((Span(f" {mark} {_word(job)}", tone), Span(f"  {job.adapter_id}", Tone.STRONG), Span(f"  {job.id}")))
    rows = [head]
    if job.reason:
        rows.append(Row((Span(f"  {job.reason}", Tone.WARN),), indent=2))
    rows += [row(""), row(" Loss", Tone.ACCENT), *chart_rows(curve.losses, max(8, width - 12))]
    if job.progress is not None:
        rows += [row(""), row(" Progress", Tone.ACCENT), *_fields(job.progress.model_dump(exclude={"job_id"}))]
    rows += [row(""), row(" Asked for", Tone.ACCENT), *_fields(job.request.model_dump(mode="json", exclude_none=True))]
    if job.recipe:
        rows += [row(""), row(" Recipe", Tone.ACCENT), *_fields(dict(job.recipe))]
    if job.metrics:
        rows += [row(""), row(" Result", Tone.ACCENT), *_fields(dict(job.metrics))]
    times = {"created": job.created_at, "started": job.started_at or "-", "finished": job.finished_at or "-"}
    return [*rows, row(""), row(" Record", Tone.ACCENT), *_fields({"data digest": job.data_digest or "-", **times})]


def _fields(fields: dict[str, object]) -> list[Row]:
    shown = {name.replace("_", " "): value for name, value in fields.items() if value is not None}
    return [Row((Span(f"  {name:<18} ", Tone.DIM), Span(_value(value))), indent=21) for name, value in shown.items()]


def _value(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def preview_rows(preview: TrainPreview) -> list[Row]:
    """What a job would take, before it is queued."""
    fits = (
        Span(f"fits: {gibibytes(preview.free_mib)} are free", Tone.GOOD)
        if preview.fits
        else Span(f"does not fit now: only {gibibytes(preview.free_mib)} are free", Tone.BAD)
    )
    asleep = ", ".join(preview.asleep) or "nobody"
    time = (
        "unknown: nothing like it was ever run here" if preview.seconds is None else f"about {clock(preview.seconds)}"
    )
    kept = f"; {preview.kept} keep the base model" if preview.kept else ""
    facts = (
        ("examples", f"{preview.examples}, and {preview.held_out} held out to measure with{kept}"),
        ("left out", f"{preview.left_out} (too long, repeated, or too many of one task)"),
        ("tokens", short_count(preview.tokens)),
        ("steps", str(preview.steps)),
        ("method", preview.method),
        ("asleep", f"{asleep} while it trains; requests wait"),
        ("time", time),
    )
    rows = [Row((Span(f" {name:<10} ", Tone.DIM), Span(value)), indent=12) for name, value in facts]
    memory = Row(
        (Span(f" {'memory':<10} ", Tone.DIM), Span(f"{gibibytes(preview.peak_mib)} at its peak, "), fits), "", 12
    )
    rows.insert(4, memory)
    if preview.note:
        rows.append(Row((Span(f" {'note':<10} ", Tone.DIM), Span(preview.note, Tone.WARN)), indent=12))
    return rows
