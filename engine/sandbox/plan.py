"""What stage 2 is told: a pure function from level, program and limits to a plain dictionary."""

from __future__ import annotations

import math
import os
import platform
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from engine.errors import InputError
from engine.sandbox.types import Level, Limits, Program

MB = 1 << 20
STRICT_SCRATCH = "/tmp"
"""The one writable mount inside bubblewrap: a tmpfs of scratch_mb that vanishes with the namespace."""
INSIDE = Path(__file__).with_name("inside")
SYSTEM_DIRECTORIES = ("/usr", "/lib", "/lib64", "/lib32", "/bin")
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
NAMESPACES = ("user", "pid", "net", "ipc", "uts", "mnt")


@dataclass(frozen=True)
class Interpreter:
    """The Python that runs stage 2 and the program: the base interpreter, not the virtual environment's link."""

    executable: str
    prefix: str
    """May lie outside /usr, even in a private home directory; the only part of that which becomes visible."""


def base_interpreter() -> Interpreter:
    """The interpreter that this process's virtual environment was made from."""
    name = "python" + sysconfig.get_python_version()
    return Interpreter(os.path.realpath(os.path.join(sys.base_prefix, "bin", name)), os.path.realpath(sys.base_prefix))


@dataclass(frozen=True)
class Place:
    """Where a program runs, and what it is allowed to know of the machine."""

    level: Level
    scratch: str
    """The writable directory, as the program sees it; the work directory is `work` in it."""
    interpreter: Interpreter
    landlock_abi: int
    as_root: bool
    """The engine runs as root, so files of root's are "its own" to the kernel even without capabilities."""
    namespaces: Mapping[str, str]
    """The engine's own namespaces (name -> identity), which the program's must differ from; only at strict."""

    @property
    def work(self) -> str:
        return self.scratch + "/work"


def own_namespaces() -> dict[str, str]:
    """Identities of this process's namespaces."""
    return {name: os.readlink(f"/proc/self/ns/{name}") for name in NAMESPACES}


def make_plan(program: Program, limits: Limits, place: Place) -> dict[str, Any]:
    """Everything that stage 2 needs, in types that `marshal` carries.

    Raises:
        InputError: a path leads out of the work directory, or the files exceed the limits.
    """
    strict = place.level is Level.STRICT
    return {
        "supervise": not strict,
        "confine": place.level is not Level.NONE,
        "namespaces": dict(place.namespaces) if strict else {},
        "landlock_abi": place.landlock_abi,
        "free_signals": strict or place.landlock_abi >= 6,
        "free_groups": strict,
        "free_metadata": strict and not place.as_root,
        "rules": landlock_rules(program, place),
        "limits": resource_limits(limits, own_user_namespace=strict),
        "keep": list(program.channel_fds),
        "work": place.work,
        "files": encode_files(program.files, limits),
        "command": [place.interpreter.executable, "-P", "-s", "-S", *program.argv],
        "environment": environment(place),
    }


def landlock_rules(program: Program, place: Place) -> list[tuple[str, str]]:
    """(path, grant) pairs; a path that is missing on this machine grants nothing."""
    rules = [(path, "execute") for path in (*SYSTEM_DIRECTORIES, place.interpreter.prefix)]
    rules += [(path, "read") for path in program.readonly_paths]
    rules += [(path, "device") for path in DEVICES]
    rules += [(place.scratch, "write")]
    if place.level is Level.STRICT:
        rules += [("/dev/shm", "write")]  # private there; multiprocessing keeps its semaphores in it
    return rules


def resource_limits(limits: Limits, *, own_user_namespace: bool) -> dict[str, tuple[int, int]]:
    """rlimit name -> (soft, hard). NPROC counts all of a user's processes unless a user namespace confines the count:
    outside one it would starve the engine itself."""
    seconds = math.ceil(limits.timeout_s)
    values: dict[str, tuple[int, int]] = {
        "RLIMIT_CPU": (seconds, seconds + 1),
        "RLIMIT_AS": _both(limits.memory_mb * MB),
        "RLIMIT_FSIZE": _both(limits.file_mb * MB),
        "RLIMIT_NOFILE": _both(limits.open_files),
        "RLIMIT_CORE": (0, 0),
        "RLIMIT_MEMLOCK": (0, 0),
        "RLIMIT_MSGQUEUE": (0, 0),
    }
    if own_user_namespace:
        values["RLIMIT_NPROC"] = _both(limits.processes)
    return values


def _both(value: int) -> tuple[int, int]:
    return value, value


def environment(place: Place) -> dict[str, str]:
    """The program's whole environment. -I would ignore PYTHONHASHSEED, hence -P -s -S and nothing else in here."""
    return {
        "PATH": f"{os.path.dirname(place.interpreter.executable)}:/usr/bin:/bin",
        "HOME": place.work,
        "TMPDIR": place.scratch,
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",  # what was printed before a kill is still there after it
        "MALLOC_ARENA_MAX": "2",  # each arena reserves 64 MB of the address space
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",  # one stack and buffer per core would not fit either
    }


def encode_files(files: Mapping[str, str], limits: Limits) -> dict[str, bytes]:
    """Checked relative paths and their bytes. Raises InputError."""
    encoded = {check_path(path): text.encode("utf-8", "surrogatepass") for path, text in files.items()}
    for path, content in encoded.items():
        if len(content) > limits.file_mb * MB:
            raise InputError(f"{path}: larger than sandbox.file_mb = {limits.file_mb}.")
    if sum(map(len, encoded.values())) > limits.scratch_mb * MB:
        raise InputError(f"The files together are larger than sandbox.scratch_mb = {limits.scratch_mb}.")
    return encoded


def check_path(path: str) -> str:
    """The path itself if it stays inside the work directory. Raises InputError."""
    parts = PurePosixPath(path).parts
    if not parts or "\0" in path or ".." in parts or path.startswith("/"):
        raise InputError(f"{path!r}: not a path inside the work directory.")
    return str(PurePosixPath(path))


def machine() -> str:
    """The architecture's name, as the system call tables are keyed."""
    return platform.machine()
