"""POST /evolve and /evidence over the real socket, with the real evaluator, judge, merging child and registry.

The scripted model server answers the same whatever adapter it serves, so the right end is that nothing is promoted.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from support.engine_process import api

from engine.api_evolution import Evidence, EvidenceRequest, EvolveRequest, SweepSummary, Verdict
from engine.api_learning import Operation
from engine.api_models import FINAL_STATES, RunState
from engine.core import Engine
from engine.home import socket_path
from registry.models import NewAdapter, Source
from registry.samples import SAMPLE_BASE_MODEL, write_sample
from rune_tui.client import EngineClient
from rune_tui.client_learning import LearningClient

FAST = ("sandbox.min_level=none", f"model.base_id={SAMPLE_BASE_MODEL}", "evaluation.bootstrap=100")
GROUPS = (("selection", "in", 2), ("gate", "in", 3), ("gate", "deeper", 2))


def prepare(home: Path, tmp_path: Path) -> str:
    """A home with the suite `mine`, of which every answer is right; the override that names the script."""
    tasks = [
        {"id": f"{split}-{group}-{number}", "prompt": f"Add one, {split} {group} {number}.", "split": split,
         "group": group, "template": f"{split}-{group}-{number}", "entry_point": "add", "tests": "assert add(1) == 2"}
        for split, group, size in GROUPS
        for number in range(size)
    ]  # fmt: skip
    (home / "suites").mkdir(parents=True, mode=0o700)
    (home / "suites" / "mine.jsonl").write_text("".join(json.dumps(task) + "\n" for task in tasks))
    script = tmp_path / "script.json"
    rules = [{"match": "Add one", "reply": "```python\ndef add(n):\n    return n + 1\n```"}]
    script.write_text(json.dumps({"rules": rules}))
    return f"inference.script={script}"


async def publish(engine: Engine, folder: Path, *names: str) -> None:
    for seed, name in enumerate(names):
        directory = await asyncio.to_thread(write_sample, folder / name, seed)
        await engine.registry.publish(directory, NewAdapter(id=name, task_type="sort", source=Source.QLORA))


async def ended(engine: Engine, operation: Operation) -> Operation:
    async for _ in engine.journal.stream():
        found = await engine.learning.operations.get(operation.id)
        if found.state in FINAL_STATES:
            return found
    raise AssertionError("the engine stopped")


async def test_a61_a_sweep_of_real_parts_merges_measures_and_promotes_nothing(home: Path, tmp_path: Path) -> None:
    script = await asyncio.to_thread(prepare, home, tmp_path)
    async with api(home, script, *FAST) as (engine, http), EngineClient(socket_path(home)) as client:
        await publish(engine, tmp_path, "a", "b", "c", "d", "e")
        learning = LearningClient(client)
        done = await ended(engine, await learning.evolve(EvolveRequest(task_type="sort", suite="mine")))
        assert done.state is RunState.SUCCEEDED, done.reason
        summary = SweepSummary.model_validate(done.result)
        found = summary.task_types["sort"]
        assert (found.merged, found.pruned, found.active, found.promoted) == (1, 0, 6, False), found.reasons
        assert found.child is not None and found.child_rate is not None and found.child_rate.passed == 2
        assert [control.name for control in found.controls][-3:] == [
            "base", "random of equal norm", "a parent trained on"
        ]  # fmt: skip
        assert any("merging has shown nothing" in reason for reason in found.reasons)
        child = await engine.registry.get(found.child)
        assert child.generation == 1 and child.source is Source.EVOLUTION and child.fitness_score is not None
        assert (await engine.registry.get_champions("sort")).champion is None
        assert (await http.post("/evolve", json={"seed": -1})).status_code == 422


async def test_evidence_is_an_operation_and_promotes_nothing(home: Path, tmp_path: Path) -> None:
    script = await asyncio.to_thread(prepare, home, tmp_path)
    async with api(home, script, *FAST) as (engine, http), EngineClient(socket_path(home)) as client:
        await publish(engine, tmp_path, "a")
        learning = LearningClient(client)
        request = EvidenceRequest(adapter="a", suite="mine", anchors=("mine",))
        done = await ended(engine, await learning.evidence(request))
        assert done.state is RunState.SUCCEEDED, done.reason
        evidence = Evidence.model_validate(done.result)
        assert (evidence.verdict, evidence.tasks, evidence.wins) == (Verdict.NOT_PROVEN, 3, 0)
        assert evidence.adapter_rate.passed == evidence.incumbent_rate.passed == 3 and evidence.ood_delta == 0
        assert len(evidence.reports) == 4 and not evidence.contamination.checked
        assert evidence.text is None and "scripted" in evidence.text_unmeasured, "it served no weights to look at"
        again = await ended(
            engine, await learning.evidence(request.model_copy(update={"seed": 1, "noise_floor": True}))
        )
        second = Evidence.model_validate(again.result)
        assert (second.earlier_looks, second.threshold) == (1, 40) and second.noise is not None
        assert (second.noise.compared, second.noise.disagreed) == (9, 0)
        answer = await http.post("/evidence", json={"adapter": "nobody", "suite": "mine"})
        assert answer.status_code == 404
