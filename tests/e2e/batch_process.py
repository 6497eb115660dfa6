"""A real `rune-tui` process for the end-to-end tests: its records as they come, and what it left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
Record = dict[str, Any]


def environment(home: Path) -> dict[str, str]:
    return {**os.environ, "RUNE_HOME": str(home), "PYTHONPATH": str(ROOT)}


def rune(home: Path, *arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """A command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "rune_tui", *arguments],
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def records(done: subprocess.CompletedProcess[str]) -> list[Record]:
    """The records on stdout; fails on anything else there."""
    return [json.loads(line) for line in done.stdout.splitlines()]


def ended(found: list[Record]) -> dict[str, Record]:
    return {record["id"]: record for record in found if record["type"] == "task"}


@contextmanager
def batch_process(home: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A batch that the test will stop."""
    with (home.parent / "stderr.txt").open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "rune_tui", "--batch", *arguments],
            env=environment(home),
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def until_task(process: subprocess.Popen[str], task_id: str) -> list[Record]:
    """Records up to the end of that task."""
    assert process.stdout is not None
    found: list[Record] = []
    for line in process.stdout:
        found.append(json.loads(line))
        if found[-1].get("id") == task_id:
            return found
    raise AssertionError(f"the batch ended before task {task_id}: {found}")


def write_tasks(path: Path, *names: str) -> Path:
    """One task a name; the script answers it right."""
    tasks = [
        {
            "id": name,
            "mode": "attempt",
            "max_attempts": 1,
            "prompt": f"Write `answer_{name}()` that returns the answer to {name}.",
            "cases": {"function": f"answer_{name}", "items": [{"expected": 42}]},
        }
        for name in names
    ]
    path.write_text("".join(json.dumps(task) + "\n" for task in tasks))
    return path


def write_script(path: Path, *names: str, slow: str = "", wrong: str = "") -> Path:
    """A script of the scripted backend: right answers, but for one that takes minutes and one that is wrong."""
    rules = [
        {
            "match": f"answer_{name}\\b",
            "reply": f"```python\ndef answer_{name}():\n    return {41 if name == wrong else 42}\n```",
            "token_seconds": 30 if name == slow else 0,
        }
        for name in names
    ]
    path.write_text(json.dumps({"rules": rules}))
    return path
