"""What every backend checks of a PEFT adapter directory before it looks at the base model: its bytes."""

from __future__ import annotations

import hashlib
from pathlib import Path

from engine.inference.sidecar.backend import AdapterMissingError, BadRequestError
from registry.adapter_config import AdapterConfig, parse_config
from registry.errors import AdapterRejected
from registry.safeload import AdapterLimits, TensorInfo, check_pairs, open_regular, scan

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"


def directory_digest(path: str) -> str:
    """sha256 over the two files of the adapter at `path`. Blocks while it reads.

    Raises:
        AdapterMissingError: one of them is not there.
    """
    digest = hashlib.sha256()
    for name in (CONFIG, WEIGHTS):
        file = Path(path) / name
        if not file.is_file():
            raise AdapterMissingError(f"No adapter found at {path!r}: {name} is missing.")
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def check_adapter(path: str, limits: AdapterLimits) -> str:
    """Check all that can be checked without a base model; gives the digest.

    Raises:
        AdapterMissingError: a file is not there.
        BadRequestError: the adapter is not acceptable; names the check.
    """
    digest = directory_digest(path)
    try:
        config = read_config(Path(path), limits)
        check_pairs(_read_tensors(Path(path) / WEIGHTS, limits), config)
    except AdapterRejected as error:
        raise BadRequestError(f"The adapter is not acceptable: {error}") from error
    return digest


def read_config(adapter: Path, limits: AdapterLimits) -> AdapterConfig:
    """The adapter's configuration.

    Raises:
        AdapterRejected
    """
    try:
        raw = (adapter / CONFIG).read_bytes()
    except OSError as error:
        raise AdapterRejected(f"{CONFIG} cannot be read: {error}") from error
    return parse_config(raw, limits.max_rank)


def _read_tensors(path: Path, limits: AdapterLimits) -> tuple[TensorInfo, ...]:
    with open(open_regular(path), "rb", buffering=0) as file:
        return scan(file.fileno(), limits).tensors
