"""The fixed general text: plain English and some Python, written for this program, that no adapter is trained for."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from importlib.resources import files

METHOD = "1: windows of 512 tokens, no special tokens, float32"
"""Part of the digest: figures that were measured in another way are of another text."""


@lru_cache(maxsize=1)
def general_text() -> str:
    """About 2,000 tokens. Reads a small file the first time."""
    return files("engine.evolution.drift").joinpath("general_text.txt").read_text(encoding="utf-8")


def text_digest(text: str) -> str:
    """SHA-256 in hex of the text and of how it is measured."""
    return hashlib.sha256(f"{METHOD}\n{text}".encode()).hexdigest()
