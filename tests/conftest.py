"""What every test runs under: a home of its own, fixed seeds, and no blocking call in an event loop (C7)."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from blockbuster import blockbuster_ctx

SEED = 20261122
OURS = ["engine", "registry", "rune_tui"]

hypothesis.settings.register_profile("rune", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("rune")


@pytest.fixture(autouse=True)
def no_blocking_calls() -> Iterator[None]:
    """A test fails when code of ours blocks the event loop."""
    with blockbuster_ctx(OURS):
        yield


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Randomness that a test takes without a seed is the same in every run."""
    random.seed(SEED)


@pytest.fixture(autouse=True)
def isolated_home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """RUNE_HOME is an own directory, with a path that is short enough for a Unix socket, and empty."""
    directory = Path(tempfile.mkdtemp(prefix="rt-"))
    monkeypatch.setenv("RUNE_HOME", str(directory / "home"))
    for name in ("RUNE_BACKEND", "RUNE_CRASH_AT"):
        monkeypatch.delenv(name, raising=False)
    yield directory / "home"
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def home(isolated_home: Path) -> Path:
    """The test's RUNE_HOME; not created yet."""
    return isolated_home
