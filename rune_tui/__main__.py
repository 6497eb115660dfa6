"""`python -m rune_tui`: the same as the `rune-tui` script."""

from __future__ import annotations

from rune_tui.cli import main

main()
