"""Training from the command line, whole: real engine, guardian and trainer on a tiny model, scripted model server."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from batch_process import rune
from support.tiny_base import make_tiny_base

from engine.api_models import RunState
from engine.home import socket_path
from rune_tui.client import EngineClient

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

RECIPE = """
[model]
path = "{base}"
base_id = "tiny"
[inference]
backend = "scripted"
[device]
heartbeat_s = 20.0
[train]
method = "lora"
rank = 4
alpha = 8
batch_size = 8
micro_batch = 4
max_tokens = 256
learning_rate = 5e-3
checkpoint_every = 2
evaluate_every = 4
threads = 1
"""


@pytest.fixture
def place(home: Path, tmp_path: Path) -> Iterator[Path]:
    """A home with the tiny base model; its engine ends with the test."""
    home.mkdir(parents=True)
    (home / "config.toml").write_text(RECIPE.format(base=make_tiny_base(tmp_path / "base")))
    yield home
    rune(home, "engine", "stop")


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    path = tmp_path / "examples.jsonl"
    rows = ({"prompt": f"add {n}", "completion": f"def add_{n}(a):\n    return a + {n}\n"} for n in range(30))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def said(done: subprocess.CompletedProcess[str], code: int = 0) -> Any:
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)


def test_a_file_becomes_an_adapter(place: Path, examples: Path) -> None:
    """A56, A50: preview, progress, the adapter with both of its forms, and a second preview that knows the time."""
    train = ("train", "--dataset", str(examples), "--max-steps", "6", "--seed", "3")
    told = said(rune(place, *train, "--preview", "--json"))
    assert (told["examples"], told["held_out"], told["steps"], told["seconds"]) == (27, 3, 6, None)
    assert told["fits"] and 0 < told["peak_mib"] < told["free_mib"]
    assert said(rune(place, "jobs", "list", "--json")) == []

    done = rune(place, *train, "--adapter-id", "first", "--wait", "--json", timeout=400)
    job = said(done)
    assert (job["state"], job["adapter_id"], job["metrics"]["steps"]) == ("succeeded", "first", 6)
    assert job["metrics"]["held_out_loss"] is not None and job["metrics"]["base_digest"] == job["base_digest"]
    assert "step 6/6: loss" in done.stderr and "27 examples (3 held out, 0 left out), 6 steps" in done.stderr
    adapter = said(rune(place, "adapters", "show", "first", "--json"))
    assert (adapter["base_model_id"], adapter["rank"], adapter["source"]) == ("tiny", 4, "qlora")
    assert list((place / "training" / "jobs").iterdir()) == [], "what was published is not kept twice"

    warm = said(rune(place, *train, "--adapter-id", "second", "--warm-start", "first", "--wait", "--json", timeout=400))
    assert warm["state"] == "succeeded"
    child = said(rune(place, "adapters", "show", "second", "--json"))
    assert (child["parent_ids"], child["generation"]) == (["first"], 1)
    assert child["file_hash"] != adapter["file_hash"]
    assert said(rune(place, *train, "--preview", "--json"))["seconds"] > 0
    listed = rune(place, "jobs", "list")
    assert [line.split()[3] for line in listed.stdout.splitlines()] == ["ADAPTER", "second", "first"]


def test_verified_sessions_become_an_adapter_and_the_model_serves_again(place: Path, tmp_path: Path) -> None:
    """The demo's tasks are solved by the scripted model, judged, and learned from; the server sleeps meanwhile."""
    assert rune(place, "engine", "start").returncode == 0
    assert rune(place, "--batch", timeout=300).returncode in (0, 1)
    train = (
        "train",
        "--from-trajectories",
        "--max-steps",
        "4",
        "--epochs",
        "4",
        "--batch-size",
        "2",
        "--max-tokens",
        "2000",
    )
    job = said(rune(place, *train, "--wait", "--json", timeout=400))
    assert job["state"] == "succeeded", job["reason"]
    session = said(rune(place, "sessions", "list", "--json"))
    assert {one["outcome"] for one in session} <= {"verified", "failed", "self-checked"}
    assert job["metrics"]["examples"] >= 1
    one = tmp_path / "one.jsonl"
    one.write_text((files("rune_tui.tasks") / "tasks.jsonl").read_text().splitlines()[0] + "\n")
    assert rune(place, "--batch", str(one)).returncode in (0, 1), "the model answers again"


def test_a_running_job_is_paused_at_a_checkpoint_and_resumed(place: Path, examples: Path) -> None:
    queued = said(rune(place, "train", "--dataset", str(examples), "--max-steps", "150", "--epochs", "100", "--json"))
    asyncio.run(until(place, queued["id"], lambda job: job.progress is not None and job.progress.step > 2))
    assert said(rune(place, "jobs", "pause", queued["id"], "--json"))["state"] == "running"
    asyncio.run(until(place, queued["id"], lambda job: job.state is RunState.INTERRUPTED))
    paused = said(rune(place, "jobs", "show", queued["id"], "--json"))
    assert (paused["reason"], paused["progress"]["step"] < 150) == ("paused", True)
    said(rune(place, "jobs", "resume", queued["id"], "--json"))
    asyncio.run(until(place, queued["id"], lambda job: job.state is RunState.SUCCEEDED))
    metrics = said(rune(place, "jobs", "show", queued["id"], "--json"))["metrics"]
    assert metrics["resumed"] == 1 and (metrics["steps"] == 150 or metrics["stopped_early"])


async def until(home: Path, job_id: str, test: Any) -> None:
    async with asyncio.timeout(300), EngineClient(socket_path(home)) as client:
        async for _ in client.events(chunks=False):
            if test(await client.job(job_id)):
                return


def test_bad_input_is_one_sentence_and_exit_2(place: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": "a", "completion": "b"}\n{"prompt": 1}\n')
    for arguments, what in (
        (("--dataset", str(bad)), f"{bad}:2: "),
        (("--dataset", str(tmp_path / "none")), "cannot be read"),
        ((), "Give either --dataset FILE or --from-trajectories."),
        (("--dataset", str(bad), "--from-trajectories"), "Give either"),
        (("--dataset", str(bad), "--session", "x"), "--session needs --from-trajectories."),
        (("--from-trajectories", "--session", "../x"), "--session"),
        (("--from-trajectories", "--adapter-id", "a/b"), "--adapter-id 'a/b'"),
        (("--from-trajectories",), "no verified session"),
        (("--from-trajectories", "--session", "rune-00000000"), "There is no session"),
        (("--dataset", str(bad), "--rank", "0"), "--rank 0"),
        (("--dataset", str(bad), "--preset", "magic"), "magic"),
    ):
        done = rune(place, "train", *arguments)
        last = done.stderr.strip().splitlines()[-1]
        assert (arguments, done.returncode, done.stdout) == (arguments, 2, "")
        assert last.startswith("rune-tui: ") and what in last
    for arguments in (("show", "train-none"), ("cancel", "train-none"), ("move", "train-none", "1")):
        assert rune(place, "jobs", *arguments).returncode == 2
