"""/operations and /evaluate over HTTP, with a scripted model server and the real judge (A81, A84, A90)."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from support.engine_process import api, scripted

from engine.api_device import DeviceState
from engine.api_learning import EvaluateRequest, EvaluationReport, Operation, OperationKind, SampleOutcome
from engine.api_models import FINAL_STATES, RunState
from engine.core import Engine
from engine.errors import NotFoundError
from engine.home import socket_path
from rune_tui.client import EngineClient
from rune_tui.client_learning import LearningClient
from rune_tui.commands.follow import OperationBar, watch

TASKS = [
    {"id": "one", "prompt": "Add one.", "split": "gate", "template": "add", "entry_point": "add",
     "tests": "assert add(1) == 2"},
    {"id": "two", "prompt": "Add two.", "split": "gate", "template": "add", "entry_point": "add",
     "tests": "assert add(1) == 3"},
    {"id": "three", "prompt": "Say nothing.", "split": "gate", "template": "none", "entry_point": "f",
     "tests": "assert f() is None"},
]  # fmt: skip
FAST = ("sandbox.min_level=none", "inference.connect_retries=0")
RULES = [
    {"match": "Add one", "reply": "```python\ndef add(n):\n    return n + 1\n```"},
    {"match": "Add two", "reply": "```python\ndef add(n):\n    return n + 1\n```"},
    {"match": "Say nothing", "fail": {"status": 500, "message": "no"}},
    {"match": "Hang", "reply": "one two three", "token_seconds": 60},
]


def prepare(home: Path, tmp_path: Path) -> str:
    """A home with the suite `mine`; the override that names the script."""
    (home / "suites").mkdir(parents=True, mode=0o700)
    (home / "suites" / "mine.jsonl").write_text("".join(json.dumps(task) + "\n" for task in TASKS))
    hangs = {"id": "h", "prompt": "Hang.", "split": "gate", "template": "h", "tests": "assert True"}
    (home / "suites" / "hangs.jsonl").write_text(json.dumps(hangs) + "\n")
    script = tmp_path / "script.json"
    script.write_text(json.dumps({"rules": RULES}))
    return f"inference.script={script}"


async def until(engine: Engine, operation_id: str, *states: RunState) -> Operation:
    async with asyncio.timeout(150):
        async for _ in engine.journal.stream():
            operation = await engine.learning.operations.get(operation_id)
            if operation.state in states:
                return operation
    raise AssertionError("the engine stopped")


async def test_a84_an_evaluation_over_http_and_its_report(home: Path, tmp_path: Path) -> None:
    script = await asyncio.to_thread(prepare, home, tmp_path)
    async with api(home, script, *FAST) as (_, http), EngineClient(socket_path(home)) as client:
        learning = LearningClient(client)
        operation = await learning.evaluate(EvaluateRequest(suite="mine"))
        assert operation.kind is OperationKind.EVALUATE and operation.request["suite"] == "mine"
        with OperationBar(operation.id) as bar:
            async with asyncio.timeout(150):
                done = await watch(client, operation.id, bar)
        assert done.state is RunState.SUCCEEDED, done.reason
        report = EvaluationReport.model_validate(done.result)
        assert (report.pass_at_1.passed, report.pass_at_1.total, report.infrastructure) == (1, 2, 1)
        assert report.digest_proven and report.backend == "scripted" and report.adapter_digest is None
        assert [sample.outcome for sample in report.sampled] == [
            SampleOutcome.PASSED, SampleOutcome.FAILED, SampleOutcome.INFRASTRUCTURE
        ]  # fmt: skip
        assert [found.id for found in await learning.operations()] == [operation.id]
        assert await learning.operations(kind=OperationKind.MERGE) == ()
        refused = await http.post("/evaluate", json={"suite": "mine", "k": 5})
        assert refused.status_code == 422
        with pytest.raises(NotFoundError, match="suite none"):
            await learning.evaluate(EvaluateRequest(suite="none"))
        with pytest.raises(NotFoundError, match="nobody"):
            await learning.evaluate(EvaluateRequest(suite="mine", adapter="nobody"))
        with pytest.raises(NotFoundError, match="operations list"):
            await learning.operation("evaluate-00000000")
        assert len(await learning.operations()) == 1, "what is refused is not queued"


async def test_an_operation_is_cancelled_in_the_midst_of_an_answer(home: Path, tmp_path: Path) -> None:
    script = await asyncio.to_thread(prepare, home, tmp_path)
    async with api(home, script, *FAST) as (engine, _), EngineClient(socket_path(home)) as client:
        learning = LearningClient(client)
        operation = await learning.evaluate(EvaluateRequest(suite="hangs"))
        await until(engine, operation.id, RunState.RUNNING)
        await learning.cancel_operation(operation.id)
        ended = await until(engine, operation.id, *FINAL_STATES)
        assert (ended.state, ended.result) == (RunState.CANCELLED, None)
        assert (await learning.resume_operation(operation.id)).state is RunState.QUEUED
        assert await engine.learning.reports.page() == []


async def test_an_engine_stops_in_time_with_an_operation_running(home: Path, tmp_path: Path) -> None:
    """The answer would take minutes; the engine's own limit for its work is what it may take."""
    script = await asyncio.to_thread(prepare, home, tmp_path)
    config = scripted(home, script, "sandbox.min_level=none")
    async with asyncio.timeout(150):
        async with Engine(config, home) as engine:
            operation = await engine.learning.operations.create(OperationKind.EVALUATE, EvaluateRequest(suite="hangs"))
            await engine.device.until(lambda snapshot: snapshot.state is DeviceState.SERVING)
            started = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - started < config.engine.shutdown_s + 10
        async with Engine(config, home) as again:
            left = await again.learning.operations.get(operation.id)
            assert left.state in (RunState.QUEUED, RunState.RUNNING) and left.result is None
