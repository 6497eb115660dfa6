"""The proof's adapters that are not trained: merges, the baseline of PEFT, random ones of the same norm."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.learn_lab import Lab
from engine.api_evolution import MergeMethod, MergeRequest
from engine.api_models import AdapterImport
from engine.evolution.merging.spec import Limits, ParentFiles, RandomAdapter

PARENTS = ("runekit-1", "inkwell-1")
WEIGHTS = (1.0, 1.0)
"""Task arithmetic: each skill whole. Shares of a half would ask which one may be forgotten."""
MAX_BYTES = 1 << 30
MAX_RANK = 512


async def derived(lab: Lab, methods: Sequence[MergeMethod]) -> None:
    """Make what is not there yet."""
    await random_of(lab, "runekit-1", "random-1", 1)
    for method in methods:
        await merged(lab, f"merged-{method}", method, PARENTS)
    await merged(lab, "merged-random", MergeMethod.CAT, ("runekit-1", "random-1"))
    await by_peft(lab, "peft-linear")


async def merged(lab: Lab, adapter_id: str, method: MergeMethod, parents: tuple[str, ...]) -> None:
    """One merge through the engine."""
    if await lab.has(adapter_id):
        return
    suite = "runekit" if method is MergeMethod.CAT_LEARNED else None
    request = MergeRequest(adapters=parents, method=method, weights=WEIGHTS, adapter_id=adapter_id, suite=suite)
    await lab.done(await lab.learning.merge(request), adapter_id)


async def random_of(lab: Lab, like: str, adapter_id: str, seed: int) -> None:
    """Random directions with the norms of another adapter, module by module."""
    if await lab.has(adapter_id):
        return
    adapter = await lab.client.adapter(like)
    with tempfile.TemporaryDirectory(prefix="rune-random-") as directory:
        spec = RandomAdapter(
            parents=(ParentFiles(id=like, directory=directory_of(lab, adapter.digest)),),
            base_model_id=adapter.base_model_id,
            seed=seed,
            limits=Limits(max_bytes=MAX_BYTES, max_rank=MAX_RANK),
            output=Path(directory) / "adapter",
        )
        file = Path(directory) / "spec.json"
        file.write_text(spec.model_dump_json())
        await child("engine.evolution.merging", str(file))
        await lab.client.import_adapter(
            AdapterImport(id=adapter_id, directory=str(spec.output), task_type=adapter.task_type)
        )


async def by_peft(lab: Lab, adapter_id: str) -> None:
    """The factor-wise `linear` of PEFT: the naive baseline."""
    if await lab.has(adapter_id):
        return
    parents = [directory_of(lab, (await lab.client.adapter(parent)).digest) for parent in PARENTS]
    with tempfile.TemporaryDirectory(prefix="rune-peft-") as directory:
        job = {"parents": [str(parent) for parent in parents], "weights": WEIGHTS, "output": directory}
        await child("benchmarks.learn_peft", json.dumps(job))
        await lab.client.import_adapter(AdapterImport(id=adapter_id, directory=directory, task_type="runekit"))


def directory_of(lab: Lab, digest: str) -> Path:
    """The published PEFT directory."""
    return lab.home / "adapters" / digest


async def child(module: str, argument: str) -> None:
    """Run a module that needs torch in a process of its own.

    Raises:
        SystemExit: it failed; with the end of what it said.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, argument),
        env={**os.environ, "OMP_NUM_THREADS": "2"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    if process.returncode:
        raise SystemExit(f"{module} failed: {said.decode(errors='replace')[-2000:]}")
