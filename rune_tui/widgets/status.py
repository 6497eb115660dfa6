"""The status line: engine, model, sandbox, connection and counts in one row of spans."""

from __future__ import annotations

from engine.api_models import EngineStatus, RunState
from rune_tui.state import LinkState, State
from rune_tui.widgets.row import Span, Tone

STRONGEST_LEVEL = "strict"

_MODEL_TONES = {"serving": Tone.GOOD, "failed": Tone.BAD, "starting": Tone.WARN}


def status_spans(state: State) -> tuple[Span, ...]:
    """Most important first: the line is cut on the right."""
    spans = [_link_span(state)]
    if state.engine is not None:
        running, queued = state.count(RunState.RUNNING), state.count(RunState.QUEUED)
        spans += [*_sandbox_spans(state.engine), Span(f" {running} running {queued} queued ")]
        spans += _model_spans(state.engine)
    return tuple(spans)


def _link_span(state: State) -> Span:
    match state.link.state:
        case LinkState.LIVE:
            return Span(" ● live ", Tone.GOOD)
        case LinkState.CONNECTING:
            return Span(" ○ connecting ", Tone.WARN)
        case LinkState.RETRYING:
            return Span(f" ! not connected, again in {state.link.retry_in_s:.0f} s ", Tone.BADGE)


def _sandbox_spans(engine: EngineStatus) -> tuple[Span, ...]:
    if engine.sandbox_level == STRONGEST_LEVEL:
        return (Span(f" sandbox {engine.sandbox_level} ", Tone.GOOD),)
    if not engine.sandbox_level:  # probed before the first run of generated code
        return (Span(" sandbox not probed yet ", Tone.DIM),)
    return (Span(f" sandbox {engine.sandbox_level}, not {STRONGEST_LEVEL} ", Tone.BADGE),)


def _model_spans(engine: EngineStatus) -> tuple[Span, ...]:
    return (
        Span(f" model {engine.model_state} ", _MODEL_TONES.get(engine.model_state, Tone.DIM)),
        Span(f"{engine.backend} {engine.model} "),
    )


def title_spans(state: State) -> tuple[Span, ...]:
    """The top line."""
    spans = [Span(" rune-tui ", Tone.STRONG)]
    if state.engine is not None:
        spans.append(Span(f" {state.engine.home} · engine {state.engine.version}, pid {state.engine.pid}", Tone.DIM))
    return tuple(spans)
