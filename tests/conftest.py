"""What every test runs under: a home of its own, fixed seeds, and no blocking call in an event loop (C7).

`pytest` alone, or with directories, shares the tests out between two workers (`support/workers.py`); with a file, a
test or -k they run in this process, without a worker's start. `-n 0` and `-n 2` say it either way.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from blockbuster import blockbuster_ctx
from support.workers import WORKERS, Pieces, rank

from engine.device.hardware import probe_gpus

SEED = 20261122
OURS = ["engine", "registry", "rune_tui"]

# OpenMP's threads spin for each other before they sleep, by default long enough to starve the other worker's test.
# Ours set it themselves; this is for torch and llama.cpp in this process. Read when the library is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "300")
# Some hundred tests start processes of ours: without bytecode each of them would compile the same modules again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# A machine that is busy with another test is slow in drawing examples too: that is no fault of the test.
hypothesis.settings.register_profile(
    "rune",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("rune")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """A worker's tmp_path is as short as it would be without workers: the path of a Unix socket has 107 bytes."""
    if worker := getattr(config, "workerinput", None):
        given = Path(config.option.basetemp)
        config.option.basetemp = str(given.with_name(worker["workerid"].removeprefix("gw")))


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """What `-n auto`, which pyproject.toml gives, stands for."""
    chosen = any(config.getoption(name, None) for name in ("keyword", "lf", "collectonly"))
    if chosen or not all(Path(name).is_dir() for name in config.option.file_or_dir):
        return 0
    # A GPU has one owner: there the engines of two workers would only wait for each other.
    return 0 if probe_gpus() else WORKERS


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Pieces:
    """Files stay whole, and those that compute on every core follow each other."""
    return Pieces(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In a worker the long files come first: what is left at the end is shared out in small pieces."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: rank(item.nodeid))


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
