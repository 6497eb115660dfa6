"""The PEFT directory that a job ends with: written beside its place, made durable, renamed into it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from engine.training.qlora.checkpoint import sync_file, write_durable
from registry.crash import crash_point
from registry.files import sync_directory

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"


def write_output(output: Path, weights: Mapping[str, Tensor], config: bytes) -> None:
    """Make `output`, or replace it: an earlier run of this job may have been killed right after it had made it.

    Raises:
        OSError: the disk is full, or the parent directory is not there.
    """
    partial = output.with_name(f".{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(mode=0o700)
    # PEFT's own mark: some readers refuse a file without it.
    save_file(dict(weights), partial / WEIGHTS, metadata={"format": "pt"})
    sync_file(partial / WEIGHTS)
    write_durable(partial / CONFIG, config)
    sync_directory(partial)
    if output.exists():
        shutil.rmtree(output)
    crash_point("output.before_rename")
    partial.rename(output)
    crash_point("device.artefact_renamed")
    sync_directory(output.parent)
