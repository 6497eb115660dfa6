"""The proof's adapters that are not trained: merges, the baseline of PEFT, random and empty ones."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from benchmarks.learn_child import child, directory_of
from benchmarks.learn_lab import Lab
from benchmarks.learn_plan import Plan, merges
from engine.api_evolution import MergeMethod, MergeRequest
from engine.api_models import AdapterImport
from engine.evolution.merging.spec import Limits, ParentFiles, RandomAdapter

WEIGHTS = (1.0, 1.0)
"""Task arithmetic: each skill whole. Shares of a half would ask which one may be forgotten."""
MAX_BYTES = 1 << 30
MAX_RANK = 512


async def derived(lab: Lab, plan: Plan) -> None:
    """Make what is not there yet."""
    await random_of(lab, plan.first, "random-1", 1)
    await zero_of(lab, plan.first, "zero-1")
    for one in merges(plan):
        await merged(lab, one.adapter, one.method, plan.parents, one.seed)
    await merged(lab, "merged-random", MergeMethod.CAT, (plan.first, "random-1"))
    await by_peft(lab, plan, "peft-linear")


async def merged(lab: Lab, adapter_id: str, method: MergeMethod, parents: tuple[str, ...], seed: int = 0) -> None:
    """One merge through the engine. `cat-learned` learns on the suites of all parents' task types."""
    await lab.merge(
        MergeRequest(adapters=parents, method=method, weights=WEIGHTS, adapter_id=adapter_id, seed=seed, suite=None)
    )


async def random_of(lab: Lab, like: str, adapter_id: str, seed: int) -> None:
    """Random directions with the norms of another adapter, module by module."""
    if await lab.has(adapter_id):
        return
    adapter = await lab.client.adapter(like)
    with lab.doing(f"make {adapter_id}"), tempfile.TemporaryDirectory(prefix="rune-random-") as directory:
        spec = RandomAdapter(
            parents=(ParentFiles(id=like, directory=directory_of(lab.home, adapter.digest)),),
            base_model_id=adapter.base_model_id,
            seed=seed,
            limits=Limits(max_bytes=MAX_BYTES, max_rank=MAX_RANK),
            output=Path(directory) / "adapter",
        )
        file = Path(directory) / "spec.json"
        file.write_text(spec.model_dump_json())
        await child("engine.evolution.merging", str(file))
        await taken(lab, adapter_id, spec.output, adapter.task_type)


async def zero_of(lab: Lab, like: str, adapter_id: str) -> None:
    """What a training of 0 steps leaves: the factors A of another adapter, and B = 0."""
    if await lab.has(adapter_id):
        return
    adapter = await lab.client.adapter(like)
    with lab.doing(f"make {adapter_id}"), tempfile.TemporaryDirectory(prefix="rune-zero-") as directory:
        await child("benchmarks.learn_zero", str(directory_of(lab.home, adapter.digest)), directory)
        await taken(lab, adapter_id, Path(directory), adapter.task_type)


async def by_peft(lab: Lab, plan: Plan, adapter_id: str) -> None:
    """The factor-wise `linear` of PEFT: the naive baseline."""
    if await lab.has(adapter_id):
        return
    parents = [directory_of(lab.home, (await lab.client.adapter(parent)).digest) for parent in plan.parents]
    with lab.doing(f"make {adapter_id}"), tempfile.TemporaryDirectory(prefix="rune-peft-") as directory:
        job = {"parents": [str(parent) for parent in parents], "weights": WEIGHTS, "output": directory}
        await child("benchmarks.learn_peft", json.dumps(job))
        await taken(lab, adapter_id, Path(directory), plan.main)


async def taken(lab: Lab, adapter_id: str, directory: Path, task_type: str) -> None:
    """Into the registry, as anybody's adapter would be."""
    await lab.client.import_adapter(AdapterImport(id=adapter_id, directory=str(directory), task_type=task_type))
