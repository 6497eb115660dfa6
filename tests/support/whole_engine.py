"""A whole engine as a process, with the scripted model server and a trainer: to be killed at any moment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.engine_process import Process
from support.tiny_base import make_tiny_base

from engine.device.processes import ProcessId, process_id, send
from registry.samples import SAMPLE_BASE_MODEL

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("crash_engine.py")
TRAINS: tuple[Any, ...] = (["steps", 4, 0.02], ["adapter", 1], ["end"], ["exit", 0])
"""What the fake trainer plays: the words of a run of four steps, and a real adapter."""
FINAL = ("succeeded", "failed", "cancelled", "interrupted")
END_S = 180.0
GONE_S = 15.0
"""P3 says 5 s, which `benchmarks/kills.py` and G2 measure; here other tests may keep every core busy meanwhile."""
REST = ("serving", "cold", "fault")


class Place:
    """A home, a base model, a data set and a trainer's script, for one engine after the other."""

    def __init__(self, root: Path, play: Sequence[Any] | None = TRAINS) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.home = root / "home"
        self.play = root / "play.json"
        self.play.write_text(json.dumps(play))
        self.base = make_tiny_base(root / "base")
        self.data = root / "data.jsonl"
        rows = [{"prompt": f"Write f{n}.", "completion": f"def f{n}(): return {n}", "task": f"t{n}"} for n in range(24)]
        self.data.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def argv(self, victim: str, overrides: Sequence[str]) -> list[str]:
        argv = [sys.executable, str(PROGRAM), str(self.play), victim, "--home", str(self.home)]
        for override in (
            "inference.backend=scripted",
            f"model.path={self.base}",
            f"model.base_id={SAMPLE_BASE_MODEL}",
            "device.margin_mib=64",
            "device.settle_s=10",
            *overrides,
        ):
            argv += ["-c", override]
        return argv

    @property
    def killed(self) -> list[int] | None:
        """Whom a crash point killed instead of the engine; None: it was not passed."""
        path = self.play.with_suffix(".killed")
        return json.loads(path.read_text()) if path.exists() else None

    def processes(self) -> list[ProcessId]:
        """Every living process that this home's engines started: its path is in their command or environment."""
        mark = os.fsencode(self.home)
        found = [process for name in os.listdir("/proc") if name.isdigit() and _names(name, mark)
                 for process in [process_id(int(name))] if process is not None]  # fmt: skip
        return [process for process in found if process.pid != os.getpid()]

    def survivors(self, within_s: float = GONE_S) -> list[ProcessId]:
        """What is left of killed engines after that time."""
        deadline = time.monotonic() + within_s
        while (left := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.01)
        return left

    def end_all(self) -> None:
        """Whatever a failed test left."""
        for process in self.processes():
            send(process, 9)  # type: ignore[arg-type]  # SIGKILL


def _names(pid: str, mark: bytes) -> bool:
    try:
        return any(mark in Path(f"/proc/{pid}/{name}").read_bytes() for name in ("cmdline", "environ"))
    except OSError:
        return False


class WholeEngine(Process):
    """A running one."""

    def serve(self) -> dict[str, Any]:
        """Have the model server started, whatever state the device is in; what the device says then."""
        deadline = time.monotonic() + END_S
        while time.monotonic() < deadline:
            answer = self.http.post("/device/backend", json={"backend": "scripted"}, timeout=END_S)
            if (device := self.device())["state"] == "serving":
                return device
            assert answer.status_code in (200, 409, 503), answer.text
            time.sleep(0.02)
        raise AssertionError(f"it does not serve: {self.device()}")

    def train(self, data: Path, adapter_id: str, **more: object) -> str:
        """The id of a queued job."""
        body = {"dataset": str(data), "adapter_id": adapter_id, "preset": "quick", **more}
        answer = self.http.post("/train/lora", json=body)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def jobs(self) -> list[dict[str, Any]]:
        return list(self.http.get("/jobs", params={"limit": 1000}).json())

    def device(self) -> dict[str, Any]:
        return dict(self.http.get("/device").json())

    def until(self, test: Callable[[], bool], within_s: float = END_S) -> None:
        """Return once it is so.

        Raises:
            AssertionError: it never was.
        """
        deadline = time.monotonic() + within_s
        while not test():
            assert time.monotonic() < deadline, f"never so: {self.jobs()} {self.device()}"
            time.sleep(0.02)

    def until_settled(self, within_s: float = END_S) -> list[dict[str, Any]]:
        """All jobs, once each has ended and the device is at rest."""

        def settled() -> bool:
            jobs, device = self.jobs(), self.device()
            ended = all(job["state"] in FINAL for job in jobs)
            return ended and device["state"] in REST and device["job_id"] is None

        self.until(settled, within_s)
        return self.jobs()

    def adapters(self) -> list[str]:
        return sorted(adapter["id"] for adapter in self.http.get("/adapters", params={"limit": 1000}).json())


@contextmanager
def whole_engine(
    place: Place,
    *overrides: str,
    crash_at: str = "",
    victim: str = "engine",
    broken: str = "",
    trainer_crash_at: str = "",
) -> Iterator[WholeEngine]:
    """Start one; killed at the end of the block if it still runs."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "RUNE_CRASH_AT": crash_at}
    if not crash_at:
        del environment["RUNE_CRASH_AT"]
    if trainer_crash_at:
        environment["RUNE_TEST_TRAINER_CRASH_AT"] = trainer_crash_at
    if broken:
        environment["RUNE_TEST_BROKEN"] = broken
    child = subprocess.Popen(
        place.argv(victim, overrides), cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    engine = WholeEngine(place.home, child)
    try:
        yield engine
    finally:
        engine.kill()
        engine.http.close()
        assert child.stderr is not None
        child.stderr.close()
