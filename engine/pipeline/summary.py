"""What a session came to, by phase and subtask: the summary that is stored with it, and that a batch writes as
`run_summary.json`. Its keys are those of the specification (A16), its texts are whole."""

from __future__ import annotations

from typing import Any

from engine.api_models import TaskMode, TaskSpec
from engine.pipeline.state import SessionState, is_pass

TASK_TYPES = {
    "attempt": "attempt",
    "decompose": "phase1-decompose",
    "plan": "phase2-plan",
    "code": "phase3-code",
    "integrate": "phase4-integrate",
    "diagnose": "phase5-diagnose",
    "repair": "phase5-repair",
}
"""Phase -> task type of the adapters that it used."""


def build_summary(
    session_id: str, task: TaskSpec, state: SessionState, *, passed: bool, adapter: str | None
) -> dict[str, Any]:
    """The summary as plain JSON.

    Args:
        passed: the given tests pass; tests that the model wrote itself never say so.
        adapter: the adapter that every phase of this run used, if any.
    """
    phases = state.get("phases", {})
    iterations = {name: data["iterations"] for name, data in phases.items()}
    program = state.get("program")
    codes = state.get("codes", {})
    return {
        "session_id": session_id,
        "total_iterations": sum(iterations.values()),
        "project_prompt": task.prompt,
        "final_tests_passed": passed,
        "phases": _phases(task, state),
        "subtasks": [
            {
                **subtask,
                "plan": state.get("plans", {}).get(subtask["name"], ""),
                **codes.get(subtask["name"], {"code": "", "passed": False, "fitness": 0.0, "iterations": 0}),
            }
            for subtask in state.get("subtasks", [])
        ],
        "adapters": [
            {"adapter_id": adapter, "task_type": TASK_TYPES[phase], "phase": phase} for phase in phases if adapter
        ],
        **({"explored": state["explored"]} if "explored" in state else {}),
        "accumulated_code": program["code"] if program is not None else "",
        "evolution": {"phase_iterations": iterations, "sweeps": [], "best_adapters": [adapter] if adapter else []},
    }


def _phases(task: TaskSpec, state: SessionState) -> dict[str, Any]:
    """Each phase with its figures; repair is the list of its rounds. A project has all four, reached or not."""
    phases: dict[str, Any] = {name: {**data} for name, data in state.get("phases", {}).items() if name != "repair"}
    if task.mode is TaskMode.PROJECT:
        for name in ("decompose", "plan", "code", "integrate"):
            phases.setdefault(name, {"iterations": 0, "score": 0.0, "state": "skipped", "detail": ""})
        phases["integrate"] = {**phases["integrate"], "tests_passed": is_pass(state.get("program"))}
    if repairs := state.get("repairs"):
        phases["repair"] = repairs
    return phases
