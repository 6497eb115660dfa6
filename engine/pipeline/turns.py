"""One pass of the attempt loop as plain data, and the decisions on it. Pure.

                      ┌──────────────────────────────────────┐
                      ▼                                      │ not passed, attempts left
    START ──► generate ──► execute ──► reflect ──► route ────┤
                 │                        ▲                  │ passed, or attempts used up
                 └── text, not code ──────┘                  └──► save ──► END

A turn is JSON, because LangGraph's checkpoint holds it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NotRequired, TypedDict

from engine.api_models import PhaseName
from engine.evaluation.verdict import Strength, TestFailure, Verdict
from engine.pipeline.prompts import Value
from engine.pipeline.syntax import is_python


class Turn(TypedDict):
    """A finished attempt."""

    number: int
    """0-based in its loop."""
    text: str
    code: str
    finish_reason: str
    truncated: bool
    """The last code block was not closed."""
    verdict: dict[str, Any]
    """Empty where nothing is executed."""
    diagnosis: str
    error: str
    failed_tests: str


class Draft(TypedDict):
    """What generate leaves for execute and reflect."""

    template: str
    prompt: str
    system_prompt: str
    text: str
    code: str
    truncated: bool
    finish_reason: str
    seed: int
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    backend: NotRequired[str]
    """Absent in checkpoints of an earlier version."""


class AttemptState(TypedDict, total=False):
    """State of the attempt graph."""

    turns: list[Turn]
    draft: Draft | None
    verdict: dict[str, Any] | None
    execute_seconds: float
    outcome: Literal["success", "exhausted"]


@dataclass(frozen=True)
class Ask:
    """What the next model call is asked."""

    template: str
    values: Mapping[str, Value]
    continues: bool = False
    """The answer goes on from the last turn's code."""
    fresh: bool = False
    """The task is asked anew, without what was tried: drawn at `generation.fresh_temperature`."""


@dataclass(frozen=True)
class Loop:
    """One attempt loop: where it stands in the session, what it asks, how it is checked, when it is over."""

    key: str
    """Unique in its session and the same after a restart: it names the checkpoint and seeds the sampling."""
    phase: PhaseName
    cap: int
    ask: Callable[[Sequence[Turn]], Ask]
    check: Callable[[str], Awaitable[Verdict]] | None = None
    """Runs code; None for phases whose text is not code and must never be run."""
    enough: Callable[[Turn], bool] | None = None
    """For phases without `check`: whether the text is good enough. None: one try is."""
    subtask: str = ""
    max_tokens: int | None = None
    """Less than `generation.max_tokens`, for phases whose answer is cut to a few lines anyway."""


def route(passed: bool, attempts: int, cap: int) -> Literal["save", "generate"]:
    """Where to go after reflect: a pass saves, used-up attempts save, everything else tries again."""
    return "save" if passed or attempts >= cap else "generate"


def is_enough(loop: Loop, turn: Turn) -> bool:
    """Whether the loop has what it wants."""
    if loop.check is not None:
        return verdict_of(turn).passed
    return loop.enough is None or loop.enough(turn)


def best_turn(turns: Sequence[Turn]) -> Turn | None:
    """A pass beats everything; else most passed tests; else code that at least ran, or parses; the first of equals."""
    return max(turns, key=_rank, default=None)


def repeats(turns: Sequence[Turn]) -> int:
    """How often the model has given code that it had given before: each raises the temperature of the next try."""
    codes = [turn["code"].strip() for turn in turns if turn["code"].strip()]
    return len(codes) - len(set(codes))


def is_progress(turns: Sequence[Turn]) -> bool:
    """Whether the last turn passes more tests than any before it, so that it is worth mending rather than replacing."""
    *earlier, last = (verdict_of(turn).passed_count for turn in turns)
    return last > max(earlier, default=0)


def verdict_of(turn: Turn) -> Verdict:
    """The turn's verdict; one that says nothing where nothing was executed."""
    return verdict_from(turn["verdict"]) if turn["verdict"] else Verdict(False, Strength.NONE)


def verdict_from(data: Mapping[str, Any]) -> Verdict:
    """The inverse of `Verdict.to_json`."""
    failures = tuple(TestFailure(**failure) for failure in data["failures"])
    typed: dict[str, Any] = {
        "strength": Strength(data["strength"]),
        "failures": failures,
        "notes": tuple(data["notes"]),
    }
    return Verdict(**{**data, **typed})


def verdict_json(verdict: Verdict) -> dict[str, Any]:
    """`Verdict.to_json` with nothing but JSON types, as a checkpoint and a record need them."""
    data = verdict.to_json()
    data["strength"] = verdict.strength.value
    data["failures"] = [dict(failure) for failure in data["failures"]]
    data["notes"] = list(data["notes"])
    return data


NO_CODE = Verdict(False, Strength.NONE, error="The answer had no code.", exit_code=1)
"""The verdict on an answer without code: a failure, and nothing that a sandbox is started for."""


def _rank(turn: Turn) -> tuple[bool, int, bool, bool]:
    verdict = verdict_of(turn)
    return verdict.passed, verdict.passed_count, verdict.ran > 0, bool(turn["code"].strip()) and is_python(turn["code"])
