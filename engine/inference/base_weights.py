"""The base model as safetensors, for vLLM, transformers and the trainer: made once from the GGUF file.

`RUNE_HOME/models/<first 16 of the GGUF's sha256>/` is a Hugging Face directory. The work is done by a child
(`dequantize`), which takes a lock first: however many callers, engines or processes ask, one converts.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from engine.config import Config
from engine.errors import EnvironmentUnfitError, ModelNotFoundError
from engine.inference.model_files import model_path
from engine.logs import tail
from registry.files import run_to_end

DIGEST_LENGTH = 16
"""Hex digits of the GGUF's sha256 in a folder's name: 64 bits, far more than any disk has models."""
MAX_DIGESTS = 16
"""Files whose digest is remembered."""
TAIL_BYTES = 2000
"""Of the log, in an error message."""
INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH")
"""All that the child sees of our environment."""


@dataclass(frozen=True)
class BaseWeights:
    """A Hugging Face directory: configuration, tokenizer with its chat template, safetensors."""

    directory: Path
    digest: str
    """sha256 in hex of the model file; of a directory, over its configuration and weights."""


def base_weights_if_ready(config: Config, home: Path) -> BaseWeights | None:
    """The base weights if nothing has to be made for them. Reads the model file the first time; call it in a thread.

    Raises:
        ModelNotFoundError
    """
    _, weights = _find(config, home)
    return weights if weights.directory.is_dir() else None


async def ensure_base_weights(config: Config, home: Path, progress: Callable[[str], None]) -> BaseWeights:
    """The base weights; makes them if they are not there: half a minute for the embedded model, and 2 bytes a weight.

    Cancelling the call ends the child; what it has done is done again by the next.

    Args:
        progress: gets a line for each step, on the event loop.

    Raises:
        ModelNotFoundError: there is no model.
        EnvironmentUnfitError: it cannot be converted; the message says why.
    """
    source, weights = await run_to_end(lambda: _find(config, home))
    if await asyncio.to_thread(weights.directory.is_dir):
        return weights
    log = home / "logs" / "base-weights.log"
    status = await _run(source, weights.directory, log, progress)
    if status != 0:
        end = await asyncio.to_thread(tail, log, TAIL_BYTES)
        raise EnvironmentUnfitError(f"{source.name} cannot be unpacked (status {status}); {log} ends: {end}")
    return weights


def base_digest(config: Config) -> str:
    """`BaseWeights.digest` of the model that is configured, converted or not. As `base_weights_if_ready` reads it.

    Raises:
        ModelNotFoundError
    """
    return _digest(_source(config))


def file_digest(path: Path) -> str:
    """sha256 in hex of a file; the same file is read once a process. Blocks while it is read.

    Raises:
        OSError
    """
    status = path.stat()
    return _remembered_digest(path, status.st_size, status.st_mtime_ns, status.st_ino)


def _find(config: Config, home: Path) -> tuple[Path, BaseWeights]:
    """The model that is configured, and its base weights as they are or will be."""
    source = _source(config)
    digest = _digest(source)
    return source, BaseWeights(source if source.is_dir() else home / "models" / digest[:DIGEST_LENGTH], digest)


def _digest(source: Path) -> str:
    return _directory_digest(source) if source.is_dir() else file_digest(source)


def _source(config: Config) -> Path:
    """The GGUF file, or a Hugging Face directory that needs no conversion."""
    folder = Path(config.model.path).expanduser()
    if not config.model.path or not folder.is_dir():
        return model_path(config)
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise ModelNotFoundError(f"model.path = {str(folder)!r}: no config.json, or no *.safetensors, is in it.")
    return folder


async def _run(source: Path, target: Path, log: Path, progress: Callable[[str], None]) -> int:
    descriptor = await run_to_end(lambda: _open_log(log))
    try:
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "engine.inference.dequantize", str(source), str(target),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=descriptor,
            env=_environment(), start_new_session=True,
        )  # fmt: skip
    finally:
        os.close(descriptor)
    assert child.stdout is not None
    try:
        async for line in child.stdout:
            progress(line.decode(errors="replace").strip())
        return await child.wait()
    finally:
        await _end(child)


async def _end(child: asyncio.subprocess.Process) -> None:
    if child.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
    await child.wait()
    if child.stdin is not None:
        child.stdin.close()


def _environment() -> dict[str, str]:
    inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
    # From a checkout the packages are on our path and nowhere else.
    root = str(Path(__file__).parents[2])
    # A model comes from this disk, and the log is for lines that say something.
    quiet = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TQDM_DISABLE": "1", "GOMP_SPINCOUNT": "300"}
    return inherited | quiet | {"PYTHONPATH": root}


def _open_log(log: Path) -> int:
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)


@lru_cache(maxsize=MAX_DIGESTS)
def _remembered_digest(path: Path, _size: int, _modified: int, _inode: int) -> str:
    """Read once a process: a model has gigabytes. The arguments say whether it is the same file still."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _directory_digest(folder: Path) -> str:
    names = ["config.json", *sorted(path.name for path in folder.glob("*.safetensors"))]
    lines = [f"{name} {file_digest(folder / name)}\n" for name in names]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
