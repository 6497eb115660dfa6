"""The GGUF form of an adapter as the registry published it: taken over in place of converting the directory anew.

Nothing is believed of the file. It is copied to a place of our own, and the copy counts only if its bytes are those
whose digest the registry has on record (so they came out of our own converter, which had checked the PEFT files), and
if its header says that it was made for a base of this kind: the order of its rows depends on the base's heads.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from engine.inference.sidecar.gguf_header import read_header
from engine.inference.sidecar.lora_gguf import BaseFacts, base_settings
from registry.blobs import GGUF
from registry.errors import AdapterRejected
from registry.safeload import CHUNK_BYTES, open_regular


def take_over(directory: Path, sha256: str, base: BaseFacts, max_bytes: int, target: Path) -> str:
    """Write the directory's GGUF form as `target`. Blocks.

    Returns:
        "", or why it cannot be used; `target` is then not there.
    """
    try:
        problem = _copy(directory / GGUF, sha256, max_bytes, target) or _unfit(target, base)
    except (AdapterRejected, OSError, ValueError) as error:
        problem = str(error)
    if problem:
        target.unlink(missing_ok=True)
    return problem


def _copy(source: Path, sha256: str, max_bytes: int, target: Path) -> str:
    """Hashes what it writes, not what it would read a second time."""
    hasher, left = hashlib.sha256(), max_bytes
    with open(open_regular(source), "rb", buffering=0) as file, open(target, "wb", opener=_private) as copy:
        while chunk := file.read(CHUNK_BYTES):
            left -= len(chunk)
            if left < 0:
                return f"it has more than {max_bytes} bytes"
            hasher.update(chunk)
            copy.write(chunk)
    return "" if hasher.hexdigest() == sha256 else "its bytes are not those that were published"


def _unfit(file: Path, base: BaseFacts) -> str:
    settings = read_header(file).settings
    other = [name for name, value in base_settings(base).items() if settings.get(name) != value]
    return f"it was made for another base model ({', '.join(other)})" if other else ""


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
