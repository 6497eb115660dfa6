"""The closed loop from the command line, whole: real engine, sandbox, explorer, trainer and evidence on a tiny model.

The scripted model server answers what it always answers, so an adapter changes nothing that is measured: the right
end of this round is that nothing is promoted. `tests/unit/evolution/test_improve.py` has the rounds that promote.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from batch_process import rune
from support.tiny_base import make_tiny_base

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SETTINGS = """
[model]
path = "{base}"
base_id = "tiny"
[inference]
backend = "scripted"
[pipeline]
sessions_at_once = 4
[train]
method = "lora"
rank = 4
alpha = 8
epochs = 3
max_steps = 3
batch_size = 4
max_tokens = 1000
threads = 1
[evaluation]
bootstrap = 100
batch_tasks = 4
[evolution]
explorer_programs = 20000
"""
FILES = {"kit.py": 'def zorb(n: int) -> int:\n    """Double n."""\n    return n * 2\n'}


def task(number: int, split: str) -> dict[str, Any]:
    base = number + (100 if split == "gate" else 0)
    return {
        "id": f"{split}-{number}",
        "prompt": f"kit: double it {number % 3 + 1} times, task {base}.",
        "split": split,
        "template": f"{split}-{number % 4}",
        "entry_point": "solve",
        "cases": {"function": "solve", "items": [{"args": [base], "expected": base * 2 ** (number % 3 + 1)}]},
        "visible_tests": f"assert solve({base + 1}) == {(base + 1) * 2 ** (number % 3 + 1)}\n",
        "prelude": "from kit import *\n",
        "files": FILES,
        "task_type": "kit",
    }


@pytest.fixture
def place(home: Path, tmp_path: Path) -> Iterator[Path]:
    """A home with the tiny base model and a suite of its own; its engine ends with the test."""
    home.mkdir(parents=True)
    (home / "config.toml").write_text(SETTINGS.format(base=make_tiny_base(tmp_path / "base")))
    suite = tmp_path / "kit.jsonl"
    tasks = [*(task(number, "train") for number in range(8)), *(task(number, "gate") for number in range(4))]
    suite.write_text("".join(json.dumps(one) + "\n" for one in tasks))
    assert rune(home, "engine", "start").returncode == 0
    said(rune(home, "suite", "add", str(suite), "--name", "kit", "--json"))
    yield home
    rune(home, "engine", "stop")


def said(done: subprocess.CompletedProcess[str], code: int = 0) -> Any:
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)


def test_a_round_explores_trains_measures_and_promotes_nothing_that_is_not_proven(place: Path) -> None:
    report = said(rune(place, "improve", "--suite", "kit", "--json", timeout=600))
    report = report.get("result", report)
    (first,) = report["rounds"]
    assert (first["tasks"], first["solved_by_model"], first["solved_by_explorer"]) == (8, 0, 8)
    assert first["calls_per_task_before"] >= 1
    assert first["adapter_id"].startswith("kit-")
    assert first["evidence"]["tasks"] == 4
    assert (first["promoted"], report["adapter_id"]) == (False, None)
    assert first["reason"].startswith("Not promoted: ")
    adapter = said(rune(place, "adapters", "show", first["adapter_id"], "--json"))
    assert adapter["task_type"] == "kit"
    (rehearsal,) = said(rune(place, "operations", "list", "--kind", "rehearse", "--json"))
    job = said(rune(place, "jobs", "show", first["job_id"], "--json"))
    assert (rehearsal["state"], job["request"]["rehearsal"]) == ("succeeded", rehearsal["id"])
    rows = (place / "training" / f"{job['data_digest']}.jsonl").read_text().splitlines()
    assert sum(json.loads(row)["keep"] for row in rows) > 20, "the base model is kept elsewhere by default"
    sessions = said(rune(place, "sessions", "list", "--json"))
    explored = [one for one in sessions if one["task"]["mode"] == "explore"]
    assert {one["outcome"] for one in explored} == {"verified"}
    assert {(one["adapter"], one["model"]) for one in explored} == {(None, "explorer")}
    assert all(one["adapter_reason"] for one in sessions)
