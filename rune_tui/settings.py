"""What stands before a command's name: made by `cli`, known to every command."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """Options that every command knows."""

    home: Path
    overrides: tuple[str, ...] = ()
