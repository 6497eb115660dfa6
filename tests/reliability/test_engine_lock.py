"""C4: the home's lock outlives nothing and lets nobody in twice. 50 holders are killed; each is a real process."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine.errors import EngineBusyError
from engine.home import HomeLock, prepare_home

ROOT = Path(__file__).parents[2]
HOLDER = """
import sys, pathlib
from engine.home import HomeLock
lock = HomeLock.acquire(pathlib.Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def holder(home: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(home)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


@pytest.mark.timeout(300)
def test_c4_refused_with_the_pid_while_it_lives_and_free_after_sigkill(home: Path) -> None:
    prepare_home(home)
    for _ in range(50):
        with holder(home) as child:
            assert child.stdout is not None and child.stdout.readline() == "held\n"
            started = time.monotonic()
            with pytest.raises(EngineBusyError, match=f"pid {child.pid}\\b"):
                HomeLock.acquire(home)
            assert time.monotonic() - started < 10, "it waited for the holder"
            child.kill()
        HomeLock.acquire(home).release()


def test_control_a_pid_file_without_a_lock_refuses_for_ever(home: Path) -> None:
    """Negative control: a file that merely exists would keep the next engine out after a SIGKILL."""
    prepare_home(home)
    with holder(home) as child:
        assert child.stdout is not None and child.stdout.readline() == "held\n"
        child.kill()
    assert (home / "run" / "engine.lock").exists(), "so the file's existence must not be what decides"
    HomeLock.acquire(home).release()
