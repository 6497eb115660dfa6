"""What the adapter tree shows: pure functions from state to rows."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from engine.api_models import AdapterRecord, RunState
from rune_tui.registry_state import OperationView, RegistryView
from rune_tui.state import State
from rune_tui.widgets.device_rows import adapters_unused
from rune_tui.widgets.row import Column, Row, Tone, row, tabular
from rune_tui.widgets.session_rows import clock

TIERS = ("project", "domain", "task")
"""Highest first; a tier that this terminal does not know comes after."""

TIER_KEY = "tier/"
"""Keys of the rows that open and close a tier; no adapter's id has a slash."""


CHAMPION = "champion"
"""The role of the one that serves its task type."""


def adapter_rows(
    adapters: Mapping[str, AdapterRecord], closed: Collection[str], width: int, registry: RegistryView | None = None
) -> list[Row]:
    """A row for each tier and, where it is open, one for each of its adapters with what its aliases call it."""
    roles = (registry or RegistryView()).roles
    tiers: dict[str, list[AdapterRecord]] = {}
    for adapter in adapters.values():
        tiers.setdefault(adapter.tier, []).append(adapter)
    rows: list[Row] = []
    for tier in sorted(tiers, key=lambda name: (TIERS.index(name) if name in TIERS else len(TIERS), name)):
        members = tiers[tier]
        mark = "▸" if tier in closed else "▾"
        rows.append(row(f" {mark} {tier} ({len(members)})", Tone.STRONG, TIER_KEY + tier))
        if tier not in closed:
            members.sort(key=lambda adapter: (-(adapter.fitness_score or 0.0), adapter.id))
            rows.extend(_adapter_row(adapter, width, roles.get(adapter.id, ())) for adapter in members)
    return rows


def adapter_mark(adapter: AdapterRecord) -> tuple[str, str, Tone]:
    """Mark, word and tone of its state."""
    if adapter.is_quarantined:
        return "!", "quarantined", Tone.BAD
    if adapter.is_archived:
        return "×", "archived", Tone.DIM
    return "●", "", Tone.PLAIN


def _adapter_row(adapter: AdapterRecord, width: int, roles: tuple[str, ...]) -> Row:
    mark, word, tone = adapter_mark(adapter)
    if roles and not word:
        mark, word, tone = ("★" if CHAMPION in roles else mark), roles[0], Tone.ACCENT
    passed = "" if adapter.pass_rate is None else f"{adapter.pass_rate:.0%}"
    columns = (
        Column(f"   {mark}", 4, tone),
        Column(adapter.id, 0, tone),
        Column(word, 11 if word else 1, tone, priority=1),
        Column(f"v{adapter.version}", 4, Tone.DIM, priority=3),
        Column(f"r{adapter.rank}", 4, Tone.DIM, priority=4),
        Column(passed, 4, right=True, priority=1),
        Column(megabytes(adapter.file_size_bytes), 8, Tone.DIM, right=True, priority=2),
    )
    return tabular(columns, width, adapter.id)


def megabytes(size: int) -> str:
    """`1.3 MB`; under a tenth of one, in kB."""
    return f"{size / 1e6:.1f} MB" if size >= 100_000 else f"{size / 1e3:.1f} kB"


def adapter_summary(state: State) -> str:
    """For the pane's title."""
    if not state.loaded:
        return ""
    archived = sum(adapter.is_archived for adapter in state.adapters.values())
    running = "".join(f" · {operation_text(one)}" for one in state.registry.running[:1])
    return f"{len(state.adapters) - archived} in use · {archived} archived{adapters_unused(state.workshop)}{running}"


def operation_text(operation: OperationView) -> str:
    """`merge-1a2b3c4d 3/12 0:20 left measuring`; the state where it does not run."""
    progress = operation.progress
    if progress is None or operation.state is not RunState.RUNNING:
        return f"{operation.id} {operation.state.value}"
    left = "" if progress.eta_seconds is None else f" {clock(progress.eta_seconds)} left"
    return f"{operation.id} {progress.done}/{progress.total}{left} {progress.note}".rstrip()


def adapter_details(adapter: AdapterRecord, roles: tuple[str, ...] = ()) -> list[Row]:
    """All that is known of one adapter."""
    fields: dict[str, object] = {
        "id": adapter.id,
        "version": adapter.version,
        "tier": adapter.tier,
        "state": ", ".join((adapter_mark(adapter)[1] or "in use", *roles)),
        "task type": adapter.task_type,
        "base model": adapter.base_model_id,
        "source": adapter.source,
        "generation": adapter.generation,
        "parents": ", ".join(adapter.parent_ids) or "none",
        "rank, alpha": f"{adapter.rank}, {adapter.alpha:g}",
        "modules": ", ".join(adapter.target_modules),
        "pass rate": "not measured" if adapter.pass_rate is None else f"{adapter.pass_rate:.1%}",
        "fitness": "not measured" if adapter.fitness_score is None else f"{adapter.fitness_score:.3f}",
        "size": megabytes(adapter.file_size_bytes),
        "digest": adapter.file_hash,
        "session": adapter.session_id or "none",
        "created": adapter.created_at,
    }
    return [row(f" {name:<12} {value}") for name, value in fields.items()]
