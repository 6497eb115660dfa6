"""What goes into a sandbox and what comes out of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Level(StrEnum):
    """How strong the isolation is; `ORDER` ranks them."""

    STRICT = "strict"
    """bubblewrap namespaces around Landlock, seccomp and rlimits."""
    LANDLOCK = "landlock"
    """Landlock, seccomp and rlimits without namespaces."""
    NONE = "none"
    """rlimits and a clean environment only: no boundary. Runs only where config.toml says so."""


ORDER = (Level.NONE, Level.LANDLOCK, Level.STRICT)


@dataclass(frozen=True)
class Limits:
    """Bounds of one run."""

    timeout_s: float
    memory_mb: int
    processes: int
    open_files: int
    file_mb: int
    scratch_mb: int
    output_bytes: int


@dataclass(frozen=True)
class Program:
    """A Python program to run: `python -P -s -S <argv>` with an exact environment, in a fresh work directory."""

    files: Mapping[str, str]
    """Relative path -> text, written into the work directory first."""
    argv: tuple[str, ...]
    """Script and arguments, relative to the work directory."""
    stdin: bytes = b""
    channel_fds: tuple[int, ...] = ()
    """File descriptors of the parent that stay open in the program, under the same numbers; all others are closed."""
    readonly_paths: tuple[str, ...] = ()
    """Extra absolute directories the program may read (pytest's site-packages for the judge)."""
    limits: Limits | None = None
    """None means the sandbox's own."""


@dataclass(frozen=True)
class SandboxResult:
    """What a run left behind: data from an opponent."""

    stdout: str
    stderr: str
    exit_code: int
    """The program's, negative for a signal; non-zero whenever timed_out."""
    timed_out: bool
    truncated: bool
    level: Level
    duration_s: float
    killed: str = field(default="")
    """What ended it: "timeout", "memory", "scratch", "processes", "stopped" (by us), or empty."""
