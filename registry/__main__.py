"""`python -m registry restore DATABASE`: put the newest whole snapshot in the place of a damaged database."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from registry.clock import SystemClock
from registry.errors import RegistryError
from registry.snapshots import restore_snapshot


def main(arguments: list[str] | None = None) -> int:
    """Restore, say which snapshot was used, and give the exit status: 0 done, 3 no whole snapshot."""
    parser = argparse.ArgumentParser(prog="python -m registry", description=__doc__)
    parser.add_argument("action", choices=["restore"])
    parser.add_argument("database", type=Path, help="for instance ~/.rune/rune.db; no engine may be running")
    asked = parser.parse_args(arguments)
    try:
        used = restore_snapshot(asked.database, SystemClock())
    except (RegistryError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 3
    sys.stdout.write(f"restored {used.name}; the damaged file is kept beside it\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
