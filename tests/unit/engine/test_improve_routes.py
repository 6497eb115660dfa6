"""/improve over HTTP: what cannot be rehearsed or learned is refused before anything is queued."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from support.engine_process import api

FAST = ("sandbox.min_level=none", "inference.connect_retries=0")


def prepare(home: Path) -> None:
    """A home with the suite `mine`, and `judged`, of which nothing may be rehearsed."""
    (home / "suites").mkdir(parents=True, mode=0o700)
    for name, split in (("mine", "train"), ("judged", "gate")):
        task = {"id": "a", "prompt": "Say a.", "split": split, "template": "a", "tests": "assert True"}
        (home / "suites" / f"{name}.jsonl").write_text(json.dumps(task) + "\n")


async def test_what_cannot_be_rehearsed_is_refused_and_not_queued(home: Path) -> None:
    await asyncio.to_thread(prepare, home)
    async with api(home, *FAST) as (_, http):
        for changes, status, what in (
            ({"rehearse": ["none"]}, 404, "suite none"),
            ({"rehearse": ["general", "judged"]}, 422, "The suite judged has no tasks in train"),
            ({"rehearse": ["general", "general"]}, 422, "named twice"),
            ({"preset": "magic"}, 422, "magic"),
            ({"suite": "none"}, 404, "suite none"),
        ):
            answer = await http.post("/improve", json={"suite": "mine", **changes})
            assert answer.status_code == status and what in answer.text, answer.text
        assert (await http.get("/operations")).json() == []
        queued = await http.post("/improve", json={"suite": "mine", "rehearse": ["mine"], "explore": False})
        assert queued.status_code == 202, "itself is left out, and no mistake"
        plain = await http.post("/improve", json={"suite": "mine", "explore": False})
        kept = plain.json()["request"]["rehearse"]
        assert kept == ["general", "inkwell", "runekit"], "the base model is kept elsewhere by default"
