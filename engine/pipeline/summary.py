"""`run_summary.json` and the files beside it: what a session came to, complete, written atomically."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.api_models import TaskSpec
from engine.pipeline.state import SessionState, is_pass
from registry.crash import crash_point

SUMMARY_FILE = "run_summary.json"
FINAL_FILE = "final.py"
TASK_TYPES = {
    "attempt": "attempt",
    "decompose": "phase1-decompose",
    "plan": "phase2-plan",
    "code": "phase3-code",
    "integrate": "phase4-integrate",
    "diagnose": "phase5-diagnose",
    "repair": "phase5-repair",
}
MAX_STEM = 60
"""Characters of a subtask's name that go into a file name."""


def build_summary(
    session_id: str, task: TaskSpec, state: SessionState, *, passed: bool, adapter: str | None
) -> dict[str, Any]:
    """The run summary: texts are whole, keys are those of the specification.

    Args:
        passed: the deciding verdict.
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
        "phases": _phases(state),
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
        "accumulated_code": program["code"] if program is not None else "",
        "evolution": {"phase_iterations": iterations, "sweeps": [], "best_adapters": [adapter] if adapter else []},
    }


def write_outputs(directory: Path, summary: Mapping[str, Any], code: str, files: Mapping[str, str]) -> None:
    """Write final.py, one file for each subtask, and last the summary: where it is, the others are complete.

    Blocking: run it in a thread.
    """
    directory.mkdir(parents=True, exist_ok=True)
    names = file_names(list(files))
    for name, text in files.items():
        write_atomically(directory / names[name], text)
    write_atomically(directory / FINAL_FILE, code)
    text = json.dumps(summary, indent=2, allow_nan=False) + "\n"
    write_atomically(directory / SUMMARY_FILE, text)


def write_atomically(path: Path, text: str) -> None:
    """The file has its old text or the new one, whatever moment the process or the machine dies at."""
    part = path.with_name(f".{path.name}.part")
    with part.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    crash_point("summary.before_rename")
    part.replace(path)
    crash_point("summary.after_rename")
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def file_names(subtasks: list[str]) -> dict[str, str]:
    """A file name for each subtask: its place in the list keeps names apart that look alike when made harmless."""
    return {name: f"subtask_{number:02d}_{_stem(name)}.py" for number, name in enumerate(subtasks, start=1)}


def _stem(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "_", name)[:MAX_STEM].strip("_").lower() or "part"


def _phases(state: SessionState) -> dict[str, Any]:
    """Each phase with its figures; repair is the list of its rounds. The four phases are there even if not reached."""
    phases: dict[str, Any] = {name: {**data} for name, data in state.get("phases", {}).items() if name != "repair"}
    if "attempt" not in phases:
        for name in ("decompose", "plan", "code", "integrate"):
            phases.setdefault(name, {"iterations": 0, "score": 0.0, "state": "skipped", "detail": ""})
        phases["integrate"] = {**phases["integrate"], "tests_passed": is_pass(state.get("program"))}
    if repairs := state.get("repairs"):
        phases["repair"] = repairs
    return phases
