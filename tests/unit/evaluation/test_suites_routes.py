"""/suites and `rune-tui suite` against a whole engine: list, show, add, check, and what they refuse (A90)."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from support.engine_process import api

from engine.api_learning import SuiteCheck, SuiteInfo, SuiteTask
from engine.errors import ExitCode
from rune_tui.cli import run
from rune_tui.commands.suite import check_lines

TASK = {
    "id": "double",
    "prompt": "Write double(n).",
    "split": "gate",
    "template": "double",
    "cases": {"function": "double", "items": [{"args": [2], "expected": 4}, {"args": [5], "expected": 10}]},
    "visible_tests": "assert double(1) == 2",
    "reference": "def double(n):\n    return n * 2",
}
WRONG = {**TASK, "id": "wrong", "template": "wrong", "reference": "def double(n):\n    return n * 3"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "My_Tasks.jsonl"
    path.write_text(json.dumps(TASK) + "\n")
    return path


async def command(home: Path, *arguments: str) -> int:
    """The command line, which has an event loop of its own."""
    return await asyncio.to_thread(run, ["--home", str(home), "suite", *arguments])


async def test_suites_over_http(home: Path, file: Path) -> None:
    async with api(home) as (_, client):
        listed = [SuiteInfo.model_validate(one) for one in (await client.get("/suites")).json()]
        assert [one.name for one in listed] == ["humaneval", "ood", "general", "runekit", "inkwell"]
        assert (await client.get("/suites/runekit")).json() == listed[3].model_dump(mode="json")
        query = {"split": "audit", "seed": 3, "limit": 2, "offset": 1}
        part = [
            SuiteTask.model_validate(one) for one in (await client.get("/suites/runekit/tasks", params=query)).json()
        ]
        assert [one.id for one in part] == ["runekit-audit-in-001", "runekit-audit-in-002"]
        added = await client.post("/suites", json={"file": str(file), "name": "mine"})
        assert added.status_code == 201 and added.json()["origin"] == "file"
        assert (await client.post("/suites", json={"file": str(file), "name": "mine"})).status_code == 409
        assert (await client.post("/suites", json={"file": "relative", "name": "other"})).status_code == 422
        assert (await client.post("/suites", json={"file": str(file), "name": "../other"})).status_code == 422
        assert (await client.get("/suites/nothing")).status_code == 404
        assert (await client.post("/suites/nothing/check", json={"suite": "nothing"})).status_code == 404
        assert (await client.post("/suites/mine/check", json={"suite": "ood"})).status_code == 400


async def test_add_and_check_from_the_command_line(
    home: Path, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with api(home, "sandbox.min_level=none"):
        assert await command(home, "add", str(file)) == ExitCode.OK
        assert await command(home, "check", "my-tasks") == ExitCode.OK
        said = capsys.readouterr().out
        assert "1 of 1 references pass, 1 of 1 changed references fail (seed 0)\nno problems\n" in said
        (tmp_path / "wrong.jsonl").write_text(f"{json.dumps(TASK)}\n{json.dumps(WRONG)}\n")
        assert await command(home, "add", str(tmp_path / "wrong.jsonl"), "--name", "bad", "--json") == ExitCode.OK
        assert json.loads(capsys.readouterr().out)["counts"] == {"gate": 2}
        assert await command(home, "check", "bad", "--json") == ExitCode.NOT_VERIFIED, "it has a problem"
        operation = json.loads(capsys.readouterr().out)
        check = SuiteCheck.model_validate(operation["result"])
        assert (operation["state"], check.references_passed, len(check.problems)) == ("succeeded", 1, 1)


async def test_list_and_show_from_the_command_line(home: Path, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with api(home):
        assert await command(home, "list") == ExitCode.OK
        lines = capsys.readouterr().out.splitlines()
        assert [line.split()[0] for line in lines] == ["NAME", "humaneval", "ood", "general", "runekit", "inkwell"]
        assert await command(home, "show", "runekit") == ExitCode.OK
        assert "train:346 selection:80 gate:220 audit:120" in capsys.readouterr().out
        assert await command(home, "show", "inkwell", "--tasks", "--split", "selection") == ExitCode.OK
        assert len(capsys.readouterr().out.splitlines()) == 81
        assert await command(home, "show", "runekit", "--task", "runekit-gate-in-000") == ExitCode.OK
        said = capsys.readouterr().out
        assert "from runekit import *\n  def solve(xs):\n      xs = lone(xs)\n" in said and "hidden cases" in said
        assert await command(home, "show", "runekit", "--task", "nothing") == ExitCode.USAGE
        assert await command(home, "check", "No Name") == ExitCode.USAGE
        assert await command(home, "add", str(file), "--name", "humaneval") == ExitCode.USAGE
        assert await command(home, "add", str(file.with_name("missing"))) == ExitCode.USAGE


def test_a_check_in_words() -> None:
    check = SuiteCheck(name="s", seed=4, tasks=3, references_passed=2, mutants=4, mutants_killed=2, problems=("a: b.",))
    assert check_lines(check) == [
        "s: 2 of 3 references pass, 2 of 4 changed references fail (seed 4)",
        "problem: a: b.",
        "1 problems",
    ]
