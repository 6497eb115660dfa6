"""The main job on the real model: SmolLM2-135M through llama.cpp, nothing scripted."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import pytest
from batch_process import ended, records, rune

from engine.errors import ExitCode

EASY = ("add-two", "string-length")
TOO_HARD = "calculator"


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.timeout(1000)
def test_the_embedded_model_verifies_at_least_one_shipped_task(home: Path, tmp_path: Path) -> None:
    lines = (files("rune_tui.tasks") / "tasks.jsonl").read_text().splitlines()
    shipped = {task["id"]: task for task in map(json.loads, lines)}
    chosen = [shipped[name] for name in EASY] + [shipped[TOO_HARD] | {"max_attempts": 1}]
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text("".join(json.dumps(task) + "\n" for task in chosen))

    done = rune(home, "--batch", str(tasks), "--output", str(tmp_path / "out"), timeout=900)

    found = ended(records(done))
    assert done.returncode in (ExitCode.OK, ExitCode.NOT_VERIFIED), done.stderr
    assert [found[name]["backend"] for name in (*EASY, TOO_HARD)] == ["llamacpp"] * 3
    outcomes = [record["outcome"] for record in found.values()]
    assert "verified" in outcomes and set(outcomes) <= {"verified", "failed"}, done.stdout + done.stderr
    verified = next(record["id"] for record in found.values() if record["outcome"] == "verified")
    assert "def " in (tmp_path / "out" / verified / "final.py").read_text()
    assert all(record["tokens"] > 0 and record["seconds"] > 0 for record in found.values())
