"""What is checked of an adapter before a server that does not check it itself is told of it.

vLLM finds a wrong shape in the middle of a running batch, if at all. So the adapter's bytes, its rank and its shapes
are compared with the base model's own files first; nothing but its header is read of a base model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import cast

from engine.errors import AdapterRejectedError, EnvironmentUnfitError
from engine.inference.sidecar.adapter_files import WEIGHTS, directory_digest, read_config
from engine.inference.sidecar.backend import AdapterMissingError
from registry.errors import AdapterRejected
from registry.safeload import MAX_HEADER_BYTES, AdapterLimits, check_pairs, open_regular, scan

MAX_SHAPES = 8
"""Base models whose shapes are remembered."""
SUFFIX = ".weight"
NOT_LINEAR = "embed_tokens.weight"
"""A matrix that is looked up in, not multiplied with: no server takes a LoRA for it."""


def digest_of(directory: str) -> str:
    """Digest of the adapter's two files. Blocks while it reads them.

    Raises:
        AdapterRejectedError: one is missing.
    """
    try:
        return directory_digest(directory)
    except AdapterMissingError as error:
        raise AdapterRejectedError(str(error)) from error


def check_against_base(directory: str, base: Path, limits: AdapterLimits) -> str:
    """Check the adapter in full, against the base model's shapes too; gives its digest. Blocks.

    Args:
        base: the base model's Hugging Face directory.

    Raises:
        AdapterRejectedError: it is not acceptable; names the check.
    """
    digest = digest_of(directory)
    try:
        config = read_config(Path(directory), limits)
        with open(open_regular(Path(directory) / WEIGHTS), "rb", buffering=0) as file:
            check_pairs(scan(file.fileno(), limits).tensors, config, linear_shapes(base))
    except AdapterRejected as error:
        raise AdapterRejectedError(f"The adapter is not acceptable: {error}") from error
    return digest


@lru_cache(maxsize=MAX_SHAPES)
def linear_shapes(base: Path) -> Mapping[str, tuple[int, int]]:
    """(out, in) of every matrix of a base model by module path, from the headers of its safetensors files. Blocks.

    Raises:
        EnvironmentUnfitError: its files cannot be read as safetensors.
    """
    shapes: dict[str, tuple[int, int]] = {}
    try:
        for file in sorted(base.glob("*.safetensors")):
            shapes |= _matrices(file)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EnvironmentUnfitError(f"{base}: the base model's files cannot be read: {error}") from error
    if not shapes:
        raise EnvironmentUnfitError(f"{base}: no safetensors file of the base model is there")
    return shapes


def _matrices(file: Path) -> dict[str, tuple[int, int]]:
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 2 <= length <= MAX_HEADER_BYTES:
            raise ValueError(f"{file.name} has a header of {length} bytes")
        header = cast("dict[str, dict[str, list[int]]]", json.loads(stream.read(length)))
    return {
        name.removesuffix(SUFFIX): (entry["shape"][0], entry["shape"][1])
        for name, entry in header.items()
        if name.endswith(SUFFIX) and not name.endswith(NOT_LINEAR) and len(entry["shape"]) == 2
    }
