"""★G2, P3: an engine that is SIGKILLed 50 times with children running; all of them are gone within 5 s, each time.

The children are a model server's kind of tree: a child, and a daemon in a session of its own that ignores TERM.
On a machine with a GPU its memory comes back with them: that part is in tests/gpu.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from support.guarded_trees import GONE_S, NAIVE_ENGINE, family

from engine.device.lock import is_free
from engine.device.processes import read_records

KILLS = 50


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_g2_fifty_killed_engines_leave_nobody(tmp_path: Path) -> None:
    slowest = 0.0
    for number in range(KILLS):
        run = tmp_path / str(number)
        with family(run) as people:
            people.kill_engine()
            killed = time.monotonic()
            assert people.gone(), people.alive()
            slowest = max(slowest, time.monotonic() - killed)
            assert is_free(run / "cpu.lock") and read_records(run / "guardians") == []
    assert slowest < GONE_S


def test_g2_negative_control_a_session_of_their_own_keeps_them_alive(tmp_path: Path) -> None:
    """The broken variant: an own session and nothing else. After the time that G2 gives, both still run."""
    with family(tmp_path, NAIVE_ENGINE) as people:
        people.kill_engine()
        assert not people.gone(0.5)
        assert set(people.alive()) == {people.child, people.grandchild}
