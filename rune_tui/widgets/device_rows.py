"""What the device line, the backend list and the device's details show: pure functions from state to rows."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from engine.api_device import BackendInfo, DeviceState, DeviceStatus
from rune_tui.device_state import Workshop, device_eta_s
from rune_tui.state import State
from rune_tui.widgets.row import Row, Span, Tone, row
from rune_tui.widgets.session_rows import clock

NOT_SERVED = "this engine says nothing of its device: it is older than this terminal"
"""Where GET /device does not exist."""

_WORDS: dict[DeviceState, tuple[str, str, Tone]] = {
    DeviceState.RECONCILE: ("◌", "looking for leftovers", Tone.WARN),
    DeviceState.COLD: ("○", "free", Tone.DIM),
    DeviceState.STARTING: ("◐", "model starts", Tone.WARN),
    DeviceState.SERVING: ("●", "serving", Tone.GOOD),
    DeviceState.DRAINING: ("◒", "finishing requests", Tone.WARN),
    DeviceState.SLEEPING: ("◑", "model goes to sleep", Tone.WARN),
    DeviceState.PREFLIGHT: ("◌", "checking memory", Tone.WARN),
    DeviceState.TRAINING: ("▲", "training", Tone.ACCENT),
    DeviceState.RECLAIMING: ("△", "training ends", Tone.WARN),
    DeviceState.WAKING: ("◐", "model wakes", Tone.WARN),
    DeviceState.VERIFYING: ("◓", "checking the model", Tone.WARN),
    DeviceState.STOPPING: ("◑", "model stops", Tone.WARN),
    DeviceState.FAULT: ("!", "fault", Tone.BADGE),
}


def state_words(state: DeviceState) -> str:
    """A state in plain words."""
    return _WORDS[state][1]


def device_spans(state: State, now: datetime) -> tuple[Span, ...]:
    """Who has the device, and what that means for whoever waits; the reason last, because the line is cut there."""
    workshop = state.workshop
    status = workshop.device
    if status is None:
        return (Span(f" device: {NOT_SERVED}" if state.loaded and not workshop.device_served else "", Tone.DIM),)
    mark, word, tone = _WORDS[status.state]
    spans = [Span(f" {mark} {word} ", tone), Span(f" {status.backend} ", Tone.STRONG)]
    if (left := device_eta_s(workshop, now)) is not None:
        spans.append(Span(f" ready in {clock(left)} ", Tone.WARN))
    if status.waiting:
        spans.append(Span(f" {status.waiting} waiting ", Tone.WARN))
    if status.free_mib is not None:
        spans.append(Span(f" {free_memory(status)} ", Tone.DIM))
    return (*spans, Span(f" {status.reason}", Tone.PLAIN if tone is Tone.BADGE else Tone.DIM))


def free_memory(status: DeviceStatus) -> str:
    """`3.1 of 23.5 GiB free`."""
    if status.free_mib is None:
        return "unknown"
    total = "" if status.total_mib is None else f" of {gibibytes(status.total_mib)}"
    return f"{gibibytes(status.free_mib).removesuffix(' GiB') if total else gibibytes(status.free_mib)}{total} free"


def gibibytes(mib: int) -> str:
    """`3.1 GiB`; small amounts keep two digits."""
    return f"{mib / 1024:.1f} GiB" if mib >= 1024 else f"{mib / 1024:.2f} GiB"


def device_details(workshop: Workshop, now: datetime) -> list[Row]:
    """All that is known of the device."""
    status = workshop.device
    if status is None:
        return [row(f" Unknown: {NOT_SERVED}.", Tone.DIM)]
    mark, word, tone = _WORDS[status.state]
    left = device_eta_s(workshop, now)
    fields: dict[str, object] = {
        "device": status.id,
        "backend": status.backend,
        "since": status.since,
        "ready in": "now, or unknown" if left is None else clock(left),
        "training job": status.job_id or "none",
        "in flight": f"{status.in_flight} requests",
        "waiting": f"{status.waiting} requests",
        "memory": free_memory(status),
        "adapters": ", ".join(status.adapters) or "none is loaded",
        "sleep": "trusted" if status.sleep_trusted else "not trusted: the model is stopped and started instead",
        "epoch": status.epoch,
    }
    head = Row((Span(f" {mark} {word}", tone), Span(f"  {status.reason}")), indent=4)
    rows = [head, row(""), *(Row((Span(f" {name:<13} {value}"),), indent=15) for name, value in fields.items())]
    if workshop.backends:
        rows += [row(""), row(" Backends", Tone.ACCENT), *backend_rows(workshop, tuple(workshop.backends.values()))]
    return rows


def backend_rows(workshop: Workshop, backends: Sequence[BackendInfo]) -> list[Row]:
    """One row a backend, with why it cannot be used or what it cannot do; those rows can be chosen."""
    rows: list[Row] = []
    for info in backends:
        serves = workshop.device is not None and workshop.device.backend is info.name
        mark, tone = ("●", Tone.GOOD) if serves else ("○", Tone.PLAIN) if info.available else ("×", Tone.DIM)
        word = "in use" if serves else "available" if info.available else "not available"
        spans = [Span(f" {mark} {info.name:<13}", tone), Span(f"{word:<14}", tone)]
        spans += [Span("no adapters  ", Tone.WARN)] if not info.adapters else []
        rows.append(Row((*spans, Span(info.reason, Tone.DIM)), str(info.name), indent=31))
    return rows


def switch_question(workshop: Workshop, info: BackendInfo) -> str:
    """What a switch to that backend means, before it is tried."""
    status = workshop.device
    parts = [f"Serve with {info.name} from now on?"]
    if not info.adapters:
        live = len(status.adapters) if status is not None else 0
        aside = f", and the {live} that are loaded are set aside" if live else ""
        parts.append(f"It cannot use adapters: tasks run on the bare model{aside}.")
    if status is not None and status.state is DeviceState.TRAINING:
        parts.append("A training job has the device: the switch waits for its end.")
    elif status is not None and status.in_flight:
        parts.append(f"{status.in_flight} requests in flight finish first.")
    parts.append("New requests wait meanwhile; if it fails, the present backend serves again.")
    return " ".join(parts)


def adapters_unused(workshop: Workshop) -> str:
    """For the adapters' title: why they are not used, where that is so."""
    info = workshop.backend
    return "" if info is None or info.adapters else f" · not used: {info.name} has none"
