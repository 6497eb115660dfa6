"""Checkpoints: adapter, optimizer, random state, best adapter, position. Whole or not at all, and no pickle.

    .partial/ {*.safetensors, state.json} ─► fsync each ─► rename to step-00000010/ ─► fsync(directory) ─► older removed

`state.json` names the digest of each tensor file, so that a damaged one is seen before it is continued from. The
best adapter is in it too: a checkpoint never speaks of weights that another run has overwritten.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.errors import TrainingError
from engine.training.qlora.state import State
from registry.crash import crash_point
from registry.files import sync_directory

FORMAT = 1
"""Of state.json."""
PARTIAL = ".partial"
PREFIX = "step-"
STATE = "state.json"

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Snapshot:
    """All that is needed to go on."""

    state: State
    tensors: Mapping[str, Tensors]
    """`adapter`, `optimizer`, `random` and, once there was an evaluation, `best`: name -> tensor."""


def write_checkpoint(directory: Path, snapshot: Snapshot, fingerprint: str) -> None:
    """Make the snapshot durable, then remove the older ones. Returns after the fsync of the directory.

    Raises:
        OSError: the disk is full, or worse; the older checkpoint is still there.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = directory / PARTIAL
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(mode=0o700)
    digests: dict[str, str] = {}
    for name, tensors in snapshot.tensors.items():
        path = partial / f"{name}.safetensors"
        save_file({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}, path)
        digests[name] = _digest(path)
        sync_file(path)
    state = {"format": FORMAT, "fingerprint": fingerprint, "files": digests, "state": snapshot.state.to_json()}
    write_durable(partial / STATE, json.dumps(state).encode())
    sync_directory(partial)
    target = directory / f"{PREFIX}{snapshot.state.step:08d}"
    shutil.rmtree(target, ignore_errors=True)
    crash_point("checkpoint.before_rename")
    partial.rename(target)
    sync_directory(directory)
    crash_point("checkpoint.after_rename")
    for other in _found(directory):
        if other != target:
            shutil.rmtree(other)


def read_checkpoint(directory: Path, fingerprint: str) -> Snapshot | None:
    """The newest checkpoint that is whole; None where there is none.

    Raises:
        TrainingError: the newest one is of another job.
    """
    for path in _found(directory):
        try:
            return _read(path, fingerprint)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError):
            # Damaged by the disk: the one before it is as good, only older.
            continue
    return None


def _read(path: Path, fingerprint: str) -> Snapshot:
    head = cast("dict[str, Any]", json.loads((path / STATE).read_bytes()))
    if head["format"] != FORMAT or head["fingerprint"] != fingerprint:
        raise TrainingError(
            f"The checkpoint {path.name} is of a job with other data, recipe, seed or base model; "
            "start this one with a checkpoint directory of its own."
        )
    tensors: dict[str, Tensors] = {}
    for name, digest in head["files"].items():
        file = path / f"{name}.safetensors"
        if _digest(file) != digest:
            raise ValueError(f"{file} is damaged")
        tensors[name] = load_file(file)
    return Snapshot(State.from_json(head["state"]), tensors)


def sync_file(path: Path) -> None:
    """Make a file's content durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durable(path: Path, content: bytes) -> None:
    """Write a file and make it durable; its name is not until the directory is synced."""
    path.write_bytes(content)
    sync_file(path)


def _found(directory: Path) -> list[Path]:
    """Checkpoints, the newest first."""
    return sorted(directory.glob(f"{PREFIX}*"), reverse=True)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
