"""A home in which a round of `improve` ends in a promotion: a suite, a script that an adapter changes, and engines.

The scripted model solves nothing by itself and everything on the gate with any adapter; the explorer solves the train
split; the trainer child writes an adapter and learns nothing. Everything else is the product.
"""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from support.whole_engine import Place, WholeEngine, whole_engine

SUITE = "kit"
TRAIN, GATE, DEEPER = 6, 12, 2
API = {
    "kit.py": (
        'def zorb(n: int) -> int:\n    """Double n."""\n    return n * 2\n\n'
        'def plim(n: int) -> int:\n    """Lower n by three."""\n    return n - 3\n'
    )
}
FINAL = ("succeeded", "failed", "cancelled", "interrupted")
END_S = 300.0


def words(chain: tuple[str, ...]) -> str:
    return " then ".join(chain)


def apply(chain: tuple[str, ...], n: int) -> int:
    for name in chain:
        n = n * 2 if name == "zorb" else n - 3
    return n


def program(chain: tuple[str, ...]) -> str:
    inner = "n"
    for name in chain:
        inner = f"{name}({inner})"
    return f"def solve(n):\n    return {inner}\n"


def chains(depth: int) -> list[tuple[str, ...]]:
    """Every chain of that many calls."""
    shorter = [()] if depth == 1 else chains(depth - 1)
    return [(*chain, name) for chain in shorter for name in ("zorb", "plim")]


LEARNED = [*chains(1), *chains(2)][:TRAIN]
ASKED = [*chains(3), *chains(4)][:GATE]
BEYOND = chains(5)[:DEEPER]


def task(number: int, chain: tuple[str, ...], split: str, group: str = "in") -> dict[str, Any]:
    told = f"Lesson {number}: " if split == "train" else f"Examination paper {number * 7 + 100}, answer this question. "
    return {
        "id": f"{split}-{group}-{number}",
        "prompt": f"{told}kit: {words(chain)}.",
        "split": split,
        "group": group,
        "template": f"{split}-{group}-{number}",
        "entry_point": "solve",
        "cases": {"function": "solve", "items": [{"args": [n], "expected": apply(chain, n)} for n in (41, 77)]},
        "visible_tests": "".join(f"assert solve({n}) == {apply(chain, n)}\n" for n in (5, 12)),
        "prelude": "from kit import *\n",
        "files": API,
        "task_type": "kit",
    }


def suite() -> list[dict[str, Any]]:
    return [
        *(task(number, chain, "train") for number, chain in enumerate(LEARNED)),
        *(task(number, chain, "gate") for number, chain in enumerate(ASKED)),
        *(task(number, chain, "gate", "deeper") for number, chain in enumerate(BEYOND)),
    ]


def script() -> dict[str, Any]:
    """Whoever answers with an adapter knows the gate; whoever answers without one knows nothing."""
    knows = [
        {"adapter": ".+", "match": f"Examination.*kit: {words(chain)}\\.", "reply": f"```python\n{program(chain)}```"}
        for chain in (*ASKED, *BEYOND)
    ]
    return {"rules": [*knows, {"reply": "```python\ndef solve(n):\n    return None\n```"}]}


@dataclass
class Loop:
    """A home with the suite in it, and what becomes of one operation in it."""

    place: Place
    operation_id: str = ""

    @contextmanager
    def engine(self, crash_at: str = "", broken: str = "") -> Generator[WholeEngine]:
        """One engine's life: it answers, or has died at its crash point already."""
        overrides = (
            f"inference.script={self.place.home.parent / 'script.json'}",
            "pipeline.sessions_at_once=2",
            "evaluation.bootstrap=100",
            "evaluation.max_perplexity_rise=0",
            f"evaluation.batch_tasks={GATE}",
        )
        with whole_engine(self.place, *overrides, crash_at=crash_at, broken=broken) as engine:
            yield engine

    def begin(self, engine: WholeEngine) -> None:
        """Ask for one round. The engine may die before it answers."""
        body = {"suite": SUITE, "preset": "small"}
        answer = engine.http.post("/improve", json=body)
        assert answer.status_code == 202, answer.text
        self.operation_id = str(answer.json()["id"])

    def go_on(self, engine: WholeEngine) -> None:
        """Find the operation, and let it go on where it was interrupted: by the command that its docs name."""
        engine.wait_ready()
        if not self.operation_id:
            (known,) = engine.http.get("/operations", params={"kind": "improve"}).json()
            self.operation_id = str(known["id"])
        known = self.operation(engine)
        assert known["state"] in ("queued", "running", "interrupted", "succeeded"), known
        if known["state"] == "interrupted":
            assert known["reason"], "whoever looks must read why it stopped"
            assert engine.http.post(f"/operations/{self.operation_id}/resume").status_code == 200

    def operation(self, engine: WholeEngine) -> dict[str, Any]:
        return dict(engine.http.get(f"/operations/{self.operation_id}").json())

    def until_ended(self, engine: WholeEngine) -> dict[str, Any]:
        """The operation, once nothing more comes of it."""
        engine.until(lambda: self.operation(engine)["state"] in FINAL, END_S)
        return self.operation(engine)


def make_loop(root: Path) -> Loop:
    """A fresh home."""
    place = Place(root)
    (root / "script.json").write_text(json.dumps(script()))
    file = root / "kit.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in suite()))
    loop = Loop(place)
    with loop.engine() as engine:
        engine.wait_ready()
        answer = engine.http.post("/suites", json={"file": str(file), "name": SUITE})
        assert answer.status_code == 201, answer.text
    return loop


def lived(loop: Loop, crash_at: str, broken: str = "") -> bool:
    """One engine that goes on with the operation until it dies at that point; False: it was never passed."""
    with loop.engine(crash_at, broken) as engine:
        try:
            engine.wait_ready()
            loop.go_on(engine)
            ended = loop.until_ended(engine)
        except (httpx.TransportError, AssertionError) as error:
            if engine.child.poll() is None and isinstance(error, AssertionError):
                raise
            status = engine.child.wait()
            assert status == -signal.SIGKILL, f"it did not die of {crash_at}: {status}, {engine.stderr()}"
            return True
        assert ended["state"] in FINAL
        return False


def twice(engine: WholeEngine) -> list[str]:
    """What was done more than once although it is known by what it depends on."""
    sessions = engine.http.get("/sessions", params={"limit": 1000}).json()
    solved = Counter((session["run_id"], session["task"]["id"]) for session in sessions)
    found = [f"solved twice: {run} {name}" for (run, name), count in solved.items() if count > 1]
    for session in sessions:
        attempts = engine.http.get(f"/sessions/{session['id']}/trajectory").json()["attempts"]
        numbers = [attempt["number"] for attempt in attempts]
        if len(set(numbers)) != len(numbers) or sum(bool(attempt["passed"]) for attempt in attempts) > 1:
            found.append(f"attempted twice: {session['task']['id']}")
    if len(engine.jobs()) > 1:
        found.append("trained twice")
    for kind, done in (("rehearse", "rehearsed"), ("evidence", "measured")):
        if len(engine.http.get("/operations", params={"kind": kind}).json()) > 1:
            found.append(f"{done} twice")
    changes = Counter(change["what"] for change in engine.http.get("/history", params={"limit": 100}).json())
    return found + [f"{what} twice" for what, count in changes.items() if count > 1]
