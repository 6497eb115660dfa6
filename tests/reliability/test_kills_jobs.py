"""★D1, P1, P2: killed at 200 random points while 3,000 jobs run, nothing is lost, doubled or torn.

RUNE_D1=KILLS:JOBS sets other numbers (nightly 5000:50000).
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest
from support.kill_worker import Worker, open_database

from registry.db import Reader
from registry.samples import safetensors_bytes, sample_tensors

ROOT = Path(__file__).parents[2]
SEED = 1
KILLS, JOBS = map(int, os.environ.get("RUNE_D1", "200:3000").split(":"))
NAIVE_KILLS, NAIVE_JOBS = 40, 400


def work(home: Path, jobs: int, kills: int, hand: str) -> Mapping[str, int]:
    """Run the worker to its end; what it printed."""
    argv = [sys.executable, str(ROOT / "tests/support/kill_worker.py"), str(home), str(jobs), str(kills), str(SEED)]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    done = subprocess.run([*argv, hand], env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, f"seed {SEED}: {done.stdout}{done.stderr[-3000:]}"
    return {name: int(value) for name, value in (line.split() for line in done.stdout.splitlines())}


async def violations(home: Path, jobs: int) -> Counter[str]:
    """Jobs that are lost, ended twice, or ended without a whole adapter."""
    db = await open_database(home)
    try:
        worker = Worker(home, db)

        def look(reader: Reader) -> tuple[dict[str, str], Counter[str], set[str]]:
            states = {row["id"]: row["state"] for row in reader.execute("SELECT id, state FROM jobs")}
            ends = Counter(
                row["subject"].removeprefix("job/")
                for row in reader.execute("SELECT subject FROM events WHERE payload ->> 'state' = 'succeeded'")
            )
            return states, ends, {row["id"] for row in reader.execute("SELECT id FROM adapters")}

        states, ends, adapters = await db.read(look)
        found = Counter[str]()
        found["lost"] = jobs - sum(state == "succeeded" for state in states.values())
        found["ended twice"] = sum(count > 1 for count in ends.values())
        found["without adapter"] = len(states.keys() - adapters)
        found["of nobody"] = len(adapters - states.keys())
        found["torn"] = sum([not await worker.registry.verify(name) for name in adapters])
        return +found
    finally:
        await db.close()


@pytest.mark.slow
@pytest.mark.timeout(1000)
def test_d1_no_kill_loses_doubles_or_tears_a_job(tmp_path: Path) -> None:
    said = work(tmp_path / "home", JOBS, KILLS, "sound")
    assert said["killed"] > KILLS * 0.9, "the queue must not run dry before the kills are spent"
    assert asyncio.run(violations(tmp_path / "home", JOBS)) == {}
    leftovers = [path for path in (tmp_path / "home/adapters").rglob("*") if "tmp" in path.name]
    assert leftovers == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_d1_negative_control_the_jobs_end_before_its_file_is_caught(tmp_path: Path) -> None:
    """The broken variant ends the job first and writes its file in place: such jobs have no adapter."""
    work(tmp_path / "home", NAIVE_JOBS, NAIVE_KILLS, "naive")
    torn = asyncio.run(torn_files(tmp_path / "home"))
    assert torn, "40 kills must hit the moment between the row and the file at least once"


async def torn_files(home: Path) -> list[str]:
    """Succeeded jobs of the broken variant whose file is absent or cut."""
    db = await open_database(home)
    try:
        ended = await db.read(
            lambda reader: [row["id"] for row in reader.execute("SELECT id FROM jobs WHERE state = 'succeeded'")]
        )
    finally:
        await db.close()
    whole = len(safetensors_bytes(sample_tensors(0)))
    paths = {job: home / "adapters" / job / "adapter_model.safetensors" for job in ended}
    return [job for job, path in paths.items() if not path.exists() or path.stat().st_size != whole]
