"""Which level of isolation works here: facts are gathered by trying for real, the choice is a pure function."""

from __future__ import annotations

import ctypes
import os
import py_compile
import shutil
import subprocess
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from engine.config import SandboxSection
from engine.errors import RuneError
from engine.sandbox.inside import landlock, seccomp
from engine.sandbox.launch import Setup, default_scratch, prepare
from engine.sandbox.plan import INSIDE, machine
from engine.sandbox.types import ORDER, Level, Limits, Program
from registry.clock import SystemClock

TRIAL = Program(files={"trial.py": "print('inside')"}, argv=("trial.py",))
TRIAL_LIMITS = Limits(
    timeout_s=5, memory_mb=512, processes=32, open_files=64, file_mb=1, scratch_mb=4, output_bytes=65536
)
TRIAL_S = 5.0
LANDLOCK_ALONE_ABI = 4
"""Without namespaces Landlock itself must refuse TCP, which it does from ABI 4 (Linux 6.7) on."""

FIX_BWRAP = "Install bubblewrap (Debian, Ubuntu: `apt install bubblewrap`)."
FIX_USERNS = (
    "Allow unprivileged user namespaces: `sysctl kernel.unprivileged_userns_clone=1`, or on Ubuntu 24.04 and later "
    "an AppArmor profile for bwrap (`sysctl kernel.apparmor_restrict_unprivileged_userns=0`)."
)
FIX_LANDLOCK = "Use Linux 5.13 or newer with `landlock` in the kernel's lsm= list (6.7 or newer without bubblewrap)."
FIX_SECCOMP = "Use a kernel with CONFIG_SECCOMP_FILTER on x86-64 or aarch64."
FIX_STAGE2 = "Read the reason above: the sandbox's own check of itself failed."


@dataclass(frozen=True)
class Facts:
    """What was found on this machine. An error is empty where the trial went well."""

    kernel: str
    landlock_abi: int
    seccomp: bool
    userns: bool
    userns_error: str = ""
    bwrap_path: str = ""
    bwrap_version: str = ""
    strict_error: str = ""
    """Why a trial program did not run inside bubblewrap and stage 2."""
    landlock_error: str = ""
    """Why a trial program did not run in stage 2 alone."""


@dataclass(frozen=True)
class Choice:
    """The strongest level that works, why no stronger one does, and what would change that."""

    level: Level
    refused: bool
    """It is weaker than the configured minimum: nothing runs."""
    reason: str
    fixes: tuple[str, ...]


@dataclass(frozen=True)
class SandboxReport:
    """What `doctor` prints and `Sandbox` goes by."""

    level: Level
    refused: bool
    reason: str
    kernel: str
    landlock_abi: int
    seccomp: bool
    userns: bool
    bwrap_path: str
    bwrap_version: str
    fixes: tuple[str, ...]


def choose_level(facts: Facts, min_level: Level) -> Choice:
    """Pure: the strongest level for which every part works."""
    gaps = _strict_gaps(facts)
    if not gaps:
        return Choice(Level.STRICT, False, "bubblewrap, Landlock, seccomp and rlimits all work.", ())
    reason, fixes = " ".join(why for why, _ in gaps), tuple(fix for _, fix in gaps)
    level = Level.NONE if _landlock_gaps(facts) else Level.LANDLOCK
    return Choice(level, ORDER.index(level) < ORDER.index(min_level), reason, fixes)


def _shared_gaps(facts: Facts) -> list[tuple[str, str]]:
    gaps: list[tuple[str, str]] = []
    if facts.landlock_abi < 1:
        gaps.append(("The kernel has no Landlock.", FIX_LANDLOCK))
    if not facts.seccomp:
        gaps.append(("seccomp filters are not available.", FIX_SECCOMP))
    return gaps


def _strict_gaps(facts: Facts) -> list[tuple[str, str]]:
    gaps = _shared_gaps(facts)
    if not facts.bwrap_path:
        gaps.append(("bubblewrap is not installed.", FIX_BWRAP))
    elif not facts.userns:
        gaps.append((f"bubblewrap gets no user namespace ({facts.userns_error}).", FIX_USERNS))
    elif facts.strict_error and not gaps:
        gaps.append((f"The strict sandbox does not start: {facts.strict_error}.", FIX_STAGE2))
    return gaps


def _landlock_gaps(facts: Facts) -> bool:
    return bool(_shared_gaps(facts)) or facts.landlock_abi < LANDLOCK_ALONE_ABI or bool(facts.landlock_error)


def probe(settings: SandboxSection, scratch: Path | None = None) -> SandboxReport:
    """Try out what this machine can do; takes well under a second. Blocking: call it in a thread."""
    facts = gather(settings, scratch or default_scratch())
    choice = choose_level(facts, Level(settings.min_level))
    return SandboxReport(
        level=choice.level,
        refused=choice.refused,
        reason=choice.reason,
        kernel=facts.kernel,
        landlock_abi=facts.landlock_abi,
        seccomp=facts.seccomp,
        userns=facts.userns,
        bwrap_path=facts.bwrap_path,
        bwrap_version=facts.bwrap_version,
        fixes=choice.fixes,
    )


def gather(settings: SandboxSection, scratch: Path, stage2: Path = INSIDE) -> Facts:
    """The facts, each one tried."""
    precompile(stage2)
    path = find_bwrap(settings.bwrap)
    version, userns_error = _try_bwrap(path) if path else ("", "not tried")
    facts = Facts(
        kernel=os.uname().release,
        landlock_abi=landlock.abi(),
        seccomp=has_seccomp(),
        userns=not userns_error,
        userns_error=userns_error,
        bwrap_path=path,
        bwrap_version=version,
    )
    setup = Setup(Level.STRICT, path, facts.landlock_abi, scratch, stage2)
    if not _strict_gaps(facts):
        facts = replace(facts, strict_error=try_level(setup))
    if not _landlock_gaps(facts):
        facts = replace(facts, landlock_error=try_level(replace(setup, level=Level.LANDLOCK)))
    return facts


def precompile(directory: Path) -> None:
    """Leave byte code beside the stage 2 modules, as an installer does; without it each start compiles them."""
    for source in directory.glob("*.py"):
        with suppress(OSError):
            py_compile.compile(str(source), quiet=2)


def find_bwrap(configured: str) -> str:
    """Absolute path of bubblewrap, or empty: it is fixed here, PATH is not searched again."""
    found = shutil.which(configured or "bwrap")
    return os.path.realpath(found) if found else ""


def has_seccomp() -> bool:
    """Whether filters can be installed and there is a table for this architecture."""
    libc = ctypes.CDLL(None, use_errno=True)
    set_seccomp, filter_mode, efault = 22, 2, 14
    refused = libc.prctl(set_seccomp, ctypes.c_ulong(filter_mode), None, ctypes.c_ulong(0), ctypes.c_ulong(0))
    return refused != 0 and ctypes.get_errno() == efault and machine() in seccomp.ARCHITECTURES


def _try_bwrap(path: str) -> tuple[str, str]:
    """(version, why it gets no user namespace)."""
    version = _quietly([path, "--version"])
    if version.returncode != 0:
        return "", _last_line(version.stderr) or "it does not run"
    trial = _quietly([path, "--unshare-user", "--disable-userns", "--unshare-net", "--ro-bind", "/", "/", "true"])
    error = "" if trial.returncode == 0 else _last_line(trial.stderr) or f"exit {trial.returncode}"
    return version.stdout.decode("utf-8", "replace").removeprefix("bubblewrap").strip(), error


def _quietly(argv: list[str]) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            argv, env={"PATH": "/usr/bin:/bin"}, stdin=subprocess.DEVNULL, capture_output=True, timeout=TRIAL_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(argv, 1, b"", str(error).encode())


def try_level(setup: Setup) -> str:
    """Run a trial program at that level; empty when it ran, else why not."""
    try:
        prepared = prepare(setup, TRIAL, TRIAL_LIMITS, SystemClock())
    except (RuneError, OSError) as error:
        return str(error)
    try:
        trial = subprocess.run(
            prepared.argv,
            env={},
            stdin=prepared.stdin,
            capture_output=True,
            timeout=TRIAL_S,
            pass_fds=prepared.pass_fds(()),
            start_new_session=True,
        )
        prepared.close_child_ends()
        answer = prepared.control.recv(65536).decode("utf-8", "replace").strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    finally:
        prepared.close()
        prepared.remove()
    if answer == "ready" and trial.returncode == 0 and trial.stdout.strip() == b"inside":
        return ""
    return answer if answer not in ("", "ready") else _last_line(trial.stderr) or f"exit {trial.returncode}"


def _last_line(output: bytes) -> str:
    lines = output.decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else ""
