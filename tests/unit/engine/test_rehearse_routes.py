"""/rehearse over HTTP and `rune-tui rehearse`, with a scripted model server."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from support.engine_process import api

from engine.api_learning import OperationKind, RehearsalReport, RehearseRequest
from engine.api_models import RunState
from engine.errors import ExitCode, InputError, NotFoundError
from engine.home import socket_path
from rune_tui.cli import run
from rune_tui.client import EngineClient
from rune_tui.client_learning import LearningClient
from rune_tui.commands.follow import OperationBar, watch

FAST = ("sandbox.min_level=none", "inference.connect_retries=0")
LONG = "one two three four five six seven eight nine ten eleven twelve"
RULES = [
    {"match": "Say much", "reply": LONG},
    {"match": "Say little", "reply": "yes"},
    {"match": "Say nothing", "reply": " "},
]


def prepare(home: Path, tmp_path: Path) -> str:
    """A home with the suites `mine` and `judged`; the override that names the script."""
    (home / "suites").mkdir(parents=True, mode=0o700)
    tasks = {
        word: {"id": word, "prompt": f"Say {word}.", "split": "train", "template": word, "tests": "assert True"}
        for word in ("much", "little", "nothing")
    }
    lines = "".join(json.dumps(task) + "\n" for task in tasks.values())
    (home / "suites" / "mine.jsonl").write_text(lines)
    (home / "suites" / "judged.jsonl").write_text(json.dumps({**tasks["much"], "split": "gate"}) + "\n")
    script = tmp_path / "script.json"
    script.write_text(json.dumps({"rules": RULES}))
    return f"inference.script={script}"


async def test_the_base_models_answers_over_http(home: Path, tmp_path: Path) -> None:
    script = await asyncio.to_thread(prepare, home, tmp_path)
    async with api(home, script, *FAST) as (_, http), EngineClient(socket_path(home)) as client:
        learning = LearningClient(client)
        operation = await learning.rehearse(RehearseRequest(suites=("mine",), max_tokens=8))
        assert operation.kind is OperationKind.REHEARSE and operation.request["suites"] == ["mine"]
        with OperationBar(operation.id) as bar:
            async with asyncio.timeout(150):
                done = await watch(client, operation.id, bar)
        assert done.state is RunState.SUCCEEDED, done.reason
        report = RehearsalReport.model_validate(done.result)
        assert (report.asked, report.empty, report.base_proven, report.backend) == (3, 1, True, "scripted")
        much, little = report.rows
        assert much.cut and LONG.startswith(much.completion) and len(much.completion) < len(LONG)
        assert (little.completion, little.cut, little.task) == ("yes", False, "rehearsal/mine/little")
        assert "Say much." in much.prompt and much.system, "asked by the pipeline's own templates"
        for suites, error, what in (
            (("mine", "none"), NotFoundError, "suite none"),
            (("judged",), InputError, "The suite judged has no tasks in train"),
        ):
            with pytest.raises(error, match=what):
                await learning.rehearse(RehearseRequest(suites=suites))
        for body in ({"suites": []}, {"suites": ["mine", "mine"]}, {"suites": ["mine"], "max_tokens": 7}):
            assert (await http.post("/rehearse", json=body)).status_code == 422
        assert len(await learning.operations()) == 1, "what is refused is not queued"


async def test_the_command_writes_rows_to_stdout_or_a_file_and_prints_the_operation(
    home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    script = await asyncio.to_thread(prepare, home, tmp_path)
    rows = tmp_path / "rows.jsonl"
    rows.write_text("of before\n")
    asking = ("--home", str(home), "rehearse", "--suite", "mine", "--tokens", "8")
    async with api(home, script, *FAST):
        capfd.readouterr()
        async with asyncio.timeout(150):
            assert await asyncio.to_thread(run, asking) == ExitCode.OK
            plain = capfd.readouterr()
            assert await asyncio.to_thread(run, [*asking, "--to", str(rows)]) == ExitCode.OK
            to_file = capfd.readouterr()
            assert await asyncio.to_thread(run, [*asking, "--json"]) == ExitCode.OK
            as_json = capfd.readouterr()
            assert await asyncio.to_thread(run, [*asking, "--suite", "judged", "--to", str(rows)]) == ExitCode.USAGE
            refused = capfd.readouterr()
    written = [json.loads(line) for line in plain.out.splitlines()]
    assert [row["task"] for row in written] == ["rehearsal/mine/much", "rehearsal/mine/little"]
    assert "2 rows (1 cut) of 3 prompts of mine, 1 empty; " in plain.err
    assert rows.read_text() == plain.out, "replaced whole, and what is refused later leaves it alone"
    assert to_file.out == "" and "2 rows (1 cut)" in to_file.err
    operation = json.loads(as_json.out)
    assert operation["kind"] == "rehearse" and operation["result"]["rows"] == written
    assert "has no tasks in train" in refused.err and list(tmp_path.glob(".rows*")) == []
