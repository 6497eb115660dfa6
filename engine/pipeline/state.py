"""State of the session graph: plain JSON, because LangGraph's checkpoint holds it."""

from __future__ import annotations

from typing import Any, Literal, TypedDict

from engine.pipeline.parse import Subtask


class SubtaskData(TypedDict):
    """A subtask of the accepted decomposition."""

    name: str
    description: str
    depends: list[str]


class SubtaskCode(TypedDict):
    """Where a subtask's code stands."""

    code: str
    passed: bool
    fitness: float
    iterations: int


class Program(TypedDict):
    """A whole program and what the judge said of it."""

    code: str
    score: float
    verdict: dict[str, Any]
    """Empty when there was no code to judge."""
    diagnosis: str
    error: str


class PhaseData(TypedDict):
    """What a phase came to."""

    iterations: int
    score: float
    state: Literal["done", "failed", "skipped"]
    detail: str


class Repair(TypedDict):
    """One round of repair."""

    iteration: int
    diagnosed: list[str]
    integration_error: str
    result: Literal["passed", "better", "kept"]
    """Of the re-integration: the tests pass; more pass than before; what was there before is kept."""
    score: float


class Explored(TypedDict):
    """What a search of the explorer cost."""

    programs: int
    seconds: float


class SessionState(TypedDict, total=False):
    """Everything that later phases need of earlier ones."""

    subtasks: list[SubtaskData]
    plans: dict[str, str]
    codes: dict[str, SubtaskCode]
    program: Program
    phases: dict[str, PhaseData]
    diagnosed: dict[str, str]
    """Guilty subtask -> what is wrong with it; empty ends the repair."""
    notes: dict[str, list[str]]
    """Subtask -> what earlier repairs of it tried."""
    repairs: list[Repair]
    failure: str
    """Why the session cannot go on, as a sentence; it then ends as failed."""
    explored: Explored
    """Only in mode explore."""
    decided: dict[str, Any]
    """The verdict that the outcome comes from."""


def subtask_data(subtask: Subtask) -> SubtaskData:
    """As JSON."""
    return {"name": subtask.name, "description": subtask.description, "depends": list(subtask.depends)}


def is_pass(program: Program | None) -> bool:
    """Whether the program passed its checks."""
    return program is not None and bool(program["verdict"]) and bool(program["verdict"]["passed"])


def with_phase(state: SessionState, phase: str, data: PhaseData) -> dict[str, PhaseData]:
    """The phases with one more; earlier iterations of the same phase are added up."""
    phases = state.get("phases", {})
    earlier = phases[phase]["iterations"] if phase in phases else 0
    return {**phases, phase: {**data, "iterations": earlier + data["iterations"]}}
