"""GGUF -> a Hugging Face directory, in a child process: `python -m engine.inference.dequantize GGUF TARGET`.

vLLM, transformers and the trainer read safetensors; the embedded model is a GGUF file. So its weights are unpacked
once, to bf16, with configuration and tokenizer.

    wait for the lock ─► target there? ─yes─► end
            │                 no
            └► remove what the dead left ─► temporary folder ─► fsync ─► rename ─► end

The lock is taken before torch is imported: of several callers one converts, the rest wait for a rename. A folder
that has its final name is whole, because the rename is the last step.

Exit: 0 the folder is there; 1 it cannot be made (standard error says why). Standard output: a line per step.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry.crash import crash_point
from registry.files import sync_directory

if TYPE_CHECKING:
    from torch import Tensor

MARGIN_BYTES = 256 << 20
"""Of free disk beyond the weights: tokenizer, configuration, and the database that shares the disk."""
MAGIC = b"GGUF"
TEMPORARY = ".partial-"
"""Begins the name of a folder that is being made."""
LOCK = ".lock"


class CannotConvertError(Exception):
    """The message says why, for the user."""


def convert(source: Path, target: Path) -> None:
    """Make the Hugging Face directory `target` from the GGUF file `source`, unless it is there.

    Raises:
        CannotConvertError, OSError
    """
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _locked(target.parent / LOCK):
        if target.is_dir():
            return
        for left in target.parent.glob(f"{TEMPORARY}*"):
            shutil.rmtree(left)
        temporary = target.parent / f"{TEMPORARY}{target.name}"
        temporary.mkdir(mode=0o700)
        try:
            _write(source, temporary)
            _sync(temporary)
            crash_point("weights.before_rename")
            temporary.rename(target)
            sync_directory(target.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _write(source: Path, folder: Path) -> None:
    _require_gguf(source)
    _say("loading the libraries")
    import torch
    from huggingface_hub import save_torch_state_dict
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.quantization_config import GgufConfig

    _say("unpacking the weights")
    options: dict[str, Any] = {"gguf_file": source.name, "local_files_only": True, "trust_remote_code": False}
    unpack = GgufConfig(dequantize=True)
    factory: Any = AutoModelForCausalLM
    model = factory.from_pretrained(source.parent, dtype=torch.bfloat16, quantization_config=unpack, **options)
    _say("writing the weights")
    # Of tied weights the source alone is written: not every reader looks for it under its other names.
    tied = set(model.all_tied_weights_keys)
    weights: dict[str, Tensor] = {name: part for name, part in model.state_dict().items() if name not in tied}
    require_space(folder, sum(part.nbytes for part in weights.values()))
    # Not save_pretrained: it takes a model that came from GGUF for one that is still packed, and refuses.
    save_torch_state_dict(weights, folder)
    _save_config(model, folder)
    tokenizers: Any = AutoTokenizer
    tokenizers.from_pretrained(source.parent, **options).save_pretrained(folder)


def _save_config(model: Any, folder: Path) -> None:
    """The configuration of the unpacked model: one that said `gguf` would make every reader look for packed weights."""
    for config in (model.config, model.generation_config):
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        config.save_pretrained(folder)


def _require_gguf(source: Path) -> None:
    """Before the libraries are loaded: they take ten seconds to find out."""
    with source.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise CannotConvertError("not a GGUF file")


def require_space(folder: Path, weights: int) -> None:
    """See that the disk has room for so many bytes of weights.

    Raises:
        CannotConvertError
    """
    need, free = weights + MARGIN_BYTES, shutil.disk_usage(folder).free
    if free < need:
        raise CannotConvertError(f"{need >> 20} MiB of disk are needed in {folder.parent}; {free >> 20} are free")


@contextmanager
def _locked(path: Path) -> Generator[None]:
    """One process at a time; the kernel lets go of the lock when its holder dies."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("waiting for another conversion")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _sync(folder: Path) -> None:
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    sync_directory(folder)


def _say(step: str) -> None:
    print(step, flush=True)  # noqa: T201 # the parent reads it


def _end_with_parent() -> None:
    """Standard input ends when the parent does, however it dies; nobody waits for the folder then."""
    while os.read(0, 4096):
        pass
    os._exit(1)


def main(argv: list[str] | None = None) -> int:
    """Convert; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m engine.inference.dequantize")
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args(argv)
    os.umask(0o077)
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    try:
        convert(arguments.source, arguments.target)
    except (CannotConvertError, OSError, ValueError) as error:
        print(f"{arguments.source.name}: {error}", file=sys.stderr)  # noqa: T201 # the log file
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
