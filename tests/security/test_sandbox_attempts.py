"""★S1: the attempt matrix. Each level that is called secure holds against all of it; level none shows its teeth."""

from __future__ import annotations

import asyncio
import os
import platform
import secrets
import socket
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from sandbox_attempts import ATTEMPTS, NEEDS_OTHER_NUMBERS, RESOURCES, Attempt

from engine.config import load_config
from engine.sandbox.launch import INSIDE
from engine.sandbox.probe import SandboxReport, probe
from engine.sandbox.run import Sandbox, limits_of
from engine.sandbox.types import Level, Program

AT_ONCE = 4
TIMEOUT_S = 8.0
VICTIM = """
import ctypes, sys
ctypes.CDLL(None).capset((0x20080522).to_bytes(4, "little") + bytes(4), bytes(24))
print("ready", flush=True)
sys.stdin.read()
"""
"""Without root's capabilities, so that an equally powerless program may look at it where nothing stops that."""


@dataclass
class Outside:
    """What is planted around the sandbox, and what of it can be looked at afterwards."""

    directory: Path
    resources: list[Any] = field(default_factory=list)
    planted: dict[str, object] = field(default_factory=dict)
    device_time: float = 0

    def plant(self) -> None:
        for name in ("secret", "rename", "unlink", "truncate", "mode", "mode2", "times"):
            path = self.directory / f"{name}.txt"
            path.write_text("planted")
            path.chmod(0o600)
            os.utime(path, (1000, 1000))
            self.planted[name] = str(path)
        token = secrets.token_hex(8)
        self.planted |= {
            "outside": str(self.directory),
            "shm": f"/dev/shm/rune-{token}",
            "tmp": f"/tmp/rune-escape-{token}",
            "stage2": str(INSIDE / "stage2.py"),
            "disk": next((f"/dev/{n}" for n in ("vda", "sda", "nvme0n1") if os.path.exists(f"/dev/{n}")), "/dev/sda"),
        }
        self._listeners(token)
        victim = subprocess.Popen([sys.executable, "-c", VICTIM], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert victim.stdout and victim.stdout.readline() == b"ready\n"
        self.device_time = os.stat("/dev/null").st_mtime
        self.resources.append(victim)
        self.planted["victim"] = victim.pid

    def _listeners(self, token: str) -> None:
        tcp = socket.create_server(("127.0.0.1", 0))
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(("127.0.0.1", 0))
        abstract, path, datagram = (socket.socket(socket.AF_UNIX) for _ in range(3))
        datagram.close()
        datagram = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        names: dict[str, Any] = {"abstract": f"\0rune-{token}", "unix": f"/tmp/rune-{token}.sock"}
        names["datagram"] = f"/tmp/rune-{token}.dgram"
        for key, server in (("abstract", abstract), ("unix", path), ("datagram", datagram)):
            server.bind(names[key])
            if server.type == socket.SOCK_STREAM:
                server.listen(8)
        self.resources += [tcp, udp, abstract, path, datagram]
        self.planted |= {**names, "tcp": tcp.getsockname()[1], "udp": udp.getsockname()[1]}

    def happened(self, evidence: str) -> bool:
        """Whether that act left its trace outside."""
        match evidence:
            case "mode" | "mode2":
                return Path(str(self.planted[evidence])).stat().st_mode & 0o777 != 0o600
            case "times":
                return Path(str(self.planted["times"])).stat().st_mtime == 1
            case "device":
                return os.stat("/dev/null").st_mtime == 1 != self.device_time
            case "prefix":
                return os.path.exists(sys.base_prefix + "/rune-escape")
            case "usr":
                return os.path.exists("/usr/lib/rune-escape")
            case _:
                return os.path.exists(str(self.planted[evidence]))

    def clear(self) -> None:
        for resource in self.resources:
            if isinstance(resource, subprocess.Popen):
                resource.communicate()
            else:
                resource.close()
        leftovers = [self.planted[key] for key in ("unix", "datagram", "shm", "tmp")]
        for path in [*leftovers, sys.base_prefix + "/rune-escape", "/usr/lib/rune-escape"]:
            Path(str(path)).unlink(missing_ok=True)


def attempts() -> tuple[Attempt, ...]:
    return ATTEMPTS if platform.machine() == "x86_64" else tuple(a for a in ATTEMPTS if a not in NEEDS_OTHER_NUMBERS)


SETTINGS = load_config(overrides=["sandbox.min_level=none"]).sandbox


@pytest.fixture(scope="module")
def report() -> SandboxReport:
    return probe(SETTINGS)


async def run_all(sandbox: Sandbox, outside: Outside, chosen: tuple[Attempt, ...]) -> set[str]:
    """Names of the attempts that succeeded."""
    limits = replace(limits_of(SETTINGS), timeout_s=TIMEOUT_S)
    gate = asyncio.Semaphore(AT_ONCE)
    escaped: set[str] = set()

    async def one(attempt: Attempt) -> None:
        program = Program(files={"attempt.py": attempt.program(outside.planted)}, argv=("attempt.py",), limits=limits)
        async with gate:
            result = await sandbox.run(program)
        if outside.happened(attempt.evidence) if attempt.evidence else result.exit_code == 0:
            escaped.add(attempt.name)

    async with asyncio.TaskGroup() as group:
        for attempt in chosen:
            group.create_task(one(attempt))
    return escaped


def escapes(directory: Path, report: SandboxReport, chosen: tuple[Attempt, ...]) -> set[str]:
    outside = Outside(directory)
    outside.plant()
    leak = os.open(str(outside.planted["secret"]), os.O_RDONLY)
    os.set_inheritable(leak, True)
    try:
        return asyncio.run(run_all(Sandbox(SETTINGS, report), outside, chosen))
    finally:
        os.close(leak)
        outside.clear()


@pytest.fixture(autouse=True)
def secret_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNE_TEST_SECRET", "planted")


def needs(report: SandboxReport, level: Level) -> None:
    if level is Level.STRICT and report.level is not Level.STRICT:
        pytest.skip(f"no strict sandbox on this machine: {report.reason}")
    if level is Level.LANDLOCK and (report.landlock_abi < 4 or not report.seccomp):
        pytest.skip("no Landlock with TCP on this machine")


@pytest.mark.parametrize(
    ("level", "abi"),
    [(Level.STRICT, 99), (Level.STRICT, 1), (Level.LANDLOCK, 99), (Level.LANDLOCK, 4)],
    ids=["strict", "strict as on Linux 5.15", "landlock", "landlock as on Linux 6.8"],
)
@pytest.mark.timeout(400)
def test_s1_nothing_escapes(level: Level, abi: int, report: SandboxReport, tmp_path: Path) -> None:
    """★S1, A22: 0 escapes at each level that is called secure, also with the rights of older kernels only."""
    needs(report, level)
    weakened = replace(report, level=level, landlock_abi=min(abi, report.landlock_abi))
    chosen = attempts() if abi == 99 else tuple(a for a in attempts() if a not in RESOURCES)
    assert escapes(tmp_path, weakened, chosen) == set()


@pytest.mark.timeout(400)
def test_s1_the_attempts_have_teeth(report: SandboxReport, tmp_path: Path) -> None:
    """Negative control: the same programs do succeed where there is no boundary, so a refusal above means something."""
    toothed = tuple(a for a in attempts() if a.teeth)
    unmet = {a.name for a in toothed} - escapes(tmp_path, replace(report, level=Level.NONE), toothed)
    assert unmet == set()
    assert len(toothed) >= 40


def test_s1_there_are_at_least_sixty_attempts() -> None:
    assert len({a.name for a in ATTEMPTS}) == len(ATTEMPTS) >= 60
    for attempt in ATTEMPTS:
        compile(attempt.program({}), attempt.name, "exec")
