"""`rune-tui doctor`: what this machine can run, and one line that mends each thing it cannot.

Works without an engine, and looks without changing anything: no file is created, no model loaded, no backend
imported. The one module of rune_tui that looks at the sandbox, the hardware and the model files by itself, since an
engine that cannot start cannot be asked.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from engine.config import BACKEND_VARIABLE, Config, load_config
from engine.device.hardware import Hardware, probe
from engine.errors import BackendUnavailableError, ConfigError, ExitCode, ModelNotFoundError, RuneError
from engine.home import socket_path
from engine.inference.install import find_vllm
from engine.inference.model_files import model_path
from engine.sandbox.types import ORDER, Level
from registry.db import SQLITE_VERSION
from rune_tui.host import running_engine
from rune_tui.terminal_text import visible_line

LOW_MEMORY_MB = 1024
"""The embedded model with its context takes about half of this, the engine and a sandbox run the rest."""

LOW_DISK_MB = 2048
"""Snapshots, logs and a converted model fit; below this they will not for long."""

NO_DISK_MB = 256
"""Below this the database cannot be relied on to grow."""

SAFE_SQLITE = (3, 51, 3)
"""Earlier versions can damage a WAL database when two connections write and checkpoint at once."""

GGUF_MAGIC = b"GGUF"
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")


class Status(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARN = "warn"
    """It runs, with less."""
    FAIL = "fail"
    """It does not run."""


@dataclass(frozen=True)
class Check:
    """One finding."""

    name: str
    status: Status
    detail: str
    fix: str = ""
    """One line to do; empty exactly when the status is ok."""

    def __post_init__(self) -> None:
        assert (self.status is Status.OK) == (not self.fix), "what is not ok says how to mend it"


@dataclass(frozen=True)
class Diagnosis:
    """All findings."""

    checks: tuple[Check, ...]

    @property
    def exit_code(self) -> ExitCode:
        """3 when something that rune-tui needs does not work."""
        failed = any(check.status is Status.FAIL for check in self.checks)
        return ExitCode.ENVIRONMENT if failed else ExitCode.OK

    def to_json(self) -> dict[str, object]:
        """Plain JSON."""
        return {"ok": self.exit_code is ExitCode.OK, "checks": [asdict(check) for check in self.checks]}


def diagnose(home: Path, overrides: Iterable[str], environment: Mapping[str, str]) -> Diagnosis:
    """Look at everything. Blocks for about a second.

    Args:
        environment: the variables of the process; the terminal is judged by them.
    """
    config, config_check = _config(home, overrides)
    hardware = probe(home)
    checks = [
        _python(),
        config_check,
        check_home(home),
        check_memory(hardware),
        check_disk(hardware),
        check_gpu(hardware, driver=NVIDIA_DRIVER.exists()),
        check_backends(
            config,
            _installed("llama_cpp", "llama-cpp-python"),
            _installed("transformers", "transformers"),
            _vllm(config, home),
        ),
        check_training(*(_installed(name, name) for name in ("torch", "peft", "bitsandbytes"))),
        _model(config),
        _sandbox(config),
        check_sqlite(SQLITE_VERSION),
        _engine(home),
        _terminal(environment),
    ]
    return Diagnosis(tuple(checks))


def _python() -> Check:
    where = f"Python {platform.python_version()} on {platform.machine()}, {platform.system()} {platform.release()}"
    if sys.platform != "linux":
        return Check("python", Status.FAIL, where, "Run rune-tui on Linux: its sandbox is made of Linux parts.")
    return Check("python", Status.OK, where)


def _config(home: Path, overrides: Iterable[str]) -> tuple[Config, Check]:
    own = home / "config.toml"
    try:
        config = load_config(own, overrides)
    except ConfigError as error:
        # So that the other checks can still be made; without the environment, which may be what is wrong.
        fallback = load_config(home / "no-such-file", (), {})
        fix = f"Correct {own}, {BACKEND_VARIABLE} or -c, whichever says it."
        return fallback, Check("config", Status.FAIL, visible_line(str(error)), fix)
    return config, Check("config", Status.OK, str(own) if own.exists() else f"defaults ({own} does not exist)")


def check_home(home: Path) -> Check:
    """Whether an engine could live there."""
    existing = next(path for path in (home, *home.parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        return Check(
            "home", Status.FAIL, f"{home} cannot be written", "Set RUNE_HOME to a directory that you can write."
        )
    try:
        socket_path(home)
    except RuneError as error:
        return Check("home", Status.FAIL, str(error), "Set RUNE_HOME to a shorter path.")
    if existing == home and home.stat().st_mode & 0o077:
        return Check("home", Status.WARN, f"{home} is open to other users", f"chmod 700 {home}")
    return Check("home", Status.OK, f"{home}{'' if existing == home else ' (will be created)'}")


def check_memory(hardware: Hardware) -> Check:
    """Whether the model, the engine and a sandbox fit."""
    detail = f"{hardware.ram_available_mb} MB of {hardware.ram_total_mb} MB available, {hardware.cpu_count} CPUs"
    if hardware.ram_available_mb < LOW_MEMORY_MB:
        return Check("memory", Status.WARN, detail, f"Close other programs: {LOW_MEMORY_MB} MB should be available.")
    return Check("memory", Status.OK, detail)


def check_disk(hardware: Hardware) -> Check:
    """Whether the database can grow."""
    detail = f"{hardware.disk_free_mb} MB of {hardware.disk_total_mb} MB free where RUNE_HOME is"
    if hardware.disk_free_mb < LOW_DISK_MB:
        status = Status.FAIL if hardware.disk_free_mb < NO_DISK_MB else Status.WARN
        return Check("disk", status, detail, "Free some space, or set RUNE_HOME to another disk.")
    return Check("disk", Status.OK, detail)


def check_gpu(hardware: Hardware, *, driver: bool) -> Check:
    """`driver`: the kernel has NVIDIA's driver loaded."""
    if hardware.gpus:
        names = ", ".join(f"{gpu.name} ({gpu.vram_free_mb} of {gpu.vram_total_mb} MB free)" for gpu in hardware.gpus)
        return Check("gpu", Status.OK, visible_line(names))
    if driver:
        detail = "the NVIDIA driver is loaded but reports no GPU"
        return Check("gpu", Status.WARN, detail, "Run `nvidia-smi`; driver and library must have the same version.")
    return Check("gpu", Status.OK, "no NVIDIA GPU; the model runs on the CPU")


def check_backends(config: Config, llama: str | None, transformers: str | None, vllm: str | None) -> Check:
    """The versions of llama-cpp-python, of transformers, and of vLLM in its own environment; None: not installed."""
    found = {"llamacpp": llama, "transformers": transformers, "vllm": vllm}
    parts = [f"{name}: {known or 'not installed'}" for name, known in found.items()]
    parts += [f"ollama: {config.ollama.url}, when it is chosen", "scripted: built in"]
    configured = str(config.inference.backend)
    detail = "; ".join([*parts, f"configured: {configured}"])
    if llama is not None and found.get(configured, "built in") is not None:
        return Check("backends", Status.OK, detail)
    missing = configured if found.get(configured, "built in") is None else "llamacpp"
    status = Status.FAIL if missing == configured else Status.WARN
    return Check("backends", status, detail, _BACKEND_FIXES[missing])


_BACKEND_FIXES = {
    "llamacpp": "pip install llama-cpp-python (needs a C++ compiler and cmake)",
    "transformers": "pip install torch transformers peft, or reinstall rune-tui",
    "vllm": "rune-tui backend install vllm",
}


def check_training(torch: str | None, peft: str | None, bitsandbytes: str | None) -> Check:
    """The versions of what a training job needs; None: not installed."""
    found = {"torch": torch, "peft": peft, "bitsandbytes": bitsandbytes}
    detail = "; ".join(f"{name}: {known or 'not installed'}" for name, known in found.items())
    if torch is None or peft is None:
        return Check("training", Status.WARN, detail, "pip install torch peft transformers, or reinstall rune-tui")
    if bitsandbytes is None:
        return Check(
            "training", Status.WARN, f"{detail}; only --method lora works", "pip install bitsandbytes, for qlora"
        )
    return Check("training", Status.OK, detail)


def _vllm(config: Config, home: Path) -> str | None:
    try:
        found = find_vllm(config, home)
    except BackendUnavailableError:
        return None
    return f"{'.'.join(map(str, found.version))} ({found.package})"


def _installed(module: str, package: str) -> str | None:
    """The package's version, found without importing it: importing would load native code into this process."""
    if importlib.util.find_spec(module) is None:
        return None
    try:
        return version(package)
    except PackageNotFoundError:
        return "of unknown version"


def _model(config: Config) -> Check:
    try:
        path = model_path(config)
        with path.open("rb") as file:
            magic = file.read(len(GGUF_MAGIC))
    except (ModelNotFoundError, OSError) as error:
        fix = "Set model.path to a GGUF file, or reinstall rune-tui."
        return Check("model", _if_needed(config), visible_line(str(error)), fix)
    if magic != GGUF_MAGIC:
        return Check("model", _if_needed(config), f"{path} is not a GGUF file", "Set model.path to a GGUF file.")
    return Check("model", Status.OK, f"{path} ({path.stat().st_size // (1 << 20)} MB), {config.model.base_id}")


def _if_needed(config: Config) -> Status:
    return Status.FAIL if config.inference.backend == "llamacpp" else Status.WARN


def _sandbox(config: Config) -> Check:
    from engine.sandbox.probe import probe as probe_sandbox

    report = probe_sandbox(config.sandbox)
    detail = f"{report.level.value}: {visible_line(report.reason)}"
    fix = " ".join(report.fixes) or "See README, section Sandbox."
    if ORDER.index(report.level) < ORDER.index(Level(config.sandbox.min_level)):
        return Check("sandbox", Status.FAIL, f"{detail}; config.toml asks for {config.sandbox.min_level}", fix)
    if report.level is not Level.STRICT:
        return Check("sandbox", Status.WARN, detail, fix)
    return Check("sandbox", Status.OK, detail)


def check_sqlite(library: str) -> Check:
    """`library` is the version of the SQLite library."""
    found = tuple(int(part) for part in library.split("."))
    if found < SAFE_SQLITE:
        return Check(
            "sqlite",
            Status.WARN,
            f"SQLite {library} has the WAL-reset bug; rune-tui avoids it with a single writing connection",
            "Use a Python whose SQLite is 3.51.3 or later, if you can.",
        )
    return Check("sqlite", Status.OK, f"SQLite {library}")


def _engine(home: Path) -> Check:
    try:
        status = asyncio.run(running_engine(home))
    except RuneError as error:
        return Check("engine", Status.WARN, visible_line(str(error)), "rune-tui engine stop, then start it again.")
    if status is None:
        return Check("engine", Status.OK, "not running; it is started when it is needed")
    return Check(
        "engine", Status.OK, f"running (pid {status.pid}, backend {status.backend}, model {status.model_state})"
    )


def _terminal(environment: Mapping[str, str]) -> Check:
    name = environment.get("TERM", "")
    columns, lines = shutil.get_terminal_size()
    detail = f"TERM={visible_line(name) or 'unset'}, {columns}x{lines}, {sys.stdout.encoding or 'unknown encoding'}"
    if name in ("", "dumb"):
        return Check(
            "terminal", Status.WARN, detail, "Set TERM, for instance xterm-256color; --batch needs no terminal."
        )
    if columns < 80 or lines < 24:
        return Check("terminal", Status.WARN, detail, "Enlarge the terminal to 80x24 or more.")
    return Check("terminal", Status.OK, detail)
