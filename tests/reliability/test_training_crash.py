"""Killed at every durable step of a training job, the next engine ends it as it would have ended (D1, D3, C3).

Real database, registry, guardian and children; the child learns nothing, so that only the parent is tested.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.training_house import open_house

from engine.api_models import RunState
from engine.training.ending import Ending
from engine.training.workplace import Workplace
from registry.crash import POINTS
from registry.models import NewAdapter, Source

pytestmark = pytest.mark.timeout(400)

TESTS = Path(__file__).parents[1]
STEPS = (
    "training.after_enqueue",
    "training.after_claim",
    "training.after_spawn",
    "training.after_end",
    "training.before_publish",
    "publish.after_rename",
    "publish.in_transaction",
    "publish.after_commit",
)


def engine(home: Path, crash_at: str = "", *settings: str) -> tuple[int, dict[str, Any]]:
    environment = {**os.environ, "PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}", "RUNE_CRASH_AT": crash_at}
    if not crash_at:
        del environment["RUNE_CRASH_AT"]
    done = subprocess.run(
        [sys.executable, str(TESTS / "support" / "training_process.py"), str(home), *settings],
        env=environment, capture_output=True, text=True, timeout=150, check=False,
    )  # fmt: skip
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode, json.loads(done.stdout) if done.stdout else {}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return engine(tmp_path_factory.mktemp("whole") / "home")[1]


def came_to(told: dict[str, Any]) -> dict[str, Any]:
    """What must be the same, whenever it was killed."""
    (job,) = told["jobs"]
    ended = {name: job[name] for name in ("state", "reason", "adapter_id", "data_digest", "metrics", "recipe")}
    return {"job": ended, **{name: told[name] for name in ("adapters", "blobs", "places")}}


@pytest.mark.parametrize("point", STEPS)
def test_killed_at_any_step_the_job_ends_the_same(tmp_path: Path, undisturbed: dict[str, Any], point: str) -> None:
    assert point in POINTS
    home = tmp_path / "home"
    code, _ = engine(home, point)
    assert code == -signal.SIGKILL, f"{point} was not passed"
    code, told = engine(home)
    assert code == 0 and came_to(told) == came_to(undisturbed)
    assert undisturbed["jobs"][0]["state"] == "succeeded" and len(undisturbed["adapters"]) == 1
    assert undisturbed["places"] == []


@pytest.mark.parametrize("look", [1, 2], ids=["after the baseline", "between halting and saying so"])
def test_a78_killed_around_a_look_the_kill_switch_halts_the_job_all_the_same(tmp_path: Path, look: int) -> None:
    home = tmp_path / "home"
    code, _ = engine(home, f"training.after_look:{look}", "watched")
    assert code == -signal.SIGKILL
    code, told = engine(home, "", "watched")
    (job,) = told["jobs"]
    assert code == 0 and job["state"] == "failed" and told["adapters"] == []
    assert "1.00 before, 0.33 now at step 4, and 0.4 less is allowed" in job["reason"]


async def test_control_two_transactions_lose_the_job_between_them(tmp_path: Path) -> None:
    """Negative control: list the adapter first and end the job after it, and a kill in between fails the job."""
    async with open_house(tmp_path / "home") as house:
        trainer, claimed = await house.trainer(["adapter", 1], ["end"], ["exit", 0], adapter_id="mine")
        assert (await trainer.run(1)).succeeded
        place = Workplace.of_job(house.home, claimed.job.id)
        new = NewAdapter(id="mine", task_type="code-gen", source=Source.QLORA)
        await house.registry.publish(place.output, new)
        after = await house.recovered("second")  # killed before `settle`
        again = await after.trainer_of(await after.claimed())
        assert await again.recall()
        await again.publish()
        assert (await after.jobs.get(claimed.job.id)).state is RunState.FAILED


async def test_control_a_result_that_is_noted_before_the_output_is_whole_would_publish_a_torso(tmp_path: Path) -> None:
    """Negative control of the order `output`, then `result.json`: a result without an output is none."""
    async with open_house(tmp_path / "home") as house:
        trainer, claimed = await house.trainer(["adapter", 1], ["end"], ["exit", 0])
        await trainer.run(1)
        place = Workplace.of_job(house.home, claimed.job.id)
        assert await asyncio.to_thread(place.result) is not None
        await asyncio.to_thread((place.output / "adapter_model.safetensors").unlink)
        assert await asyncio.to_thread(place.result) is None
        await trainer.settle(Ending.CRASHED, "killed")
