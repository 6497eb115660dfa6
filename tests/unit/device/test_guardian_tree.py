"""G2, G3, P3: whoever is killed, the whole tree goes, and the device's lock is free only afterwards."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from pathlib import Path

import pytest
from support.guarded_trees import NAIVE_ENGINE, Family, family

from engine.device import guardian
from engine.device.lock import is_free
from engine.device.processes import await_end, end_survivors, is_alive, read_records, send

ROUNDS = 5


def wait_for_lock(run: Path) -> None:
    """Returns in the moment in which the last holder is gone."""
    descriptor = os.open(run / "cpu.lock", os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    os.close(descriptor)


def test_g3_engine_sigkill_ends_the_tree_and_only_then_frees_the_lock(tmp_path: Path) -> None:
    """A daemonised, TERM-ignoring grandchild in its own session is among them."""
    for number in range(ROUNDS):
        run = tmp_path / str(number)
        with family(run) as people:
            assert not is_free(run / "cpu.lock")
            started = time.monotonic()
            people.kill_engine()
            wait_for_lock(run)
            # The guardian itself is in its exit: that is what closed the last copy.
            left = [process for process in people.alive() if process != people.guardian]
            assert left == [], "the lock was free while one of them lived"
            assert people.gone()
            assert time.monotonic() - started < 5
            assert read_records(run / "guardians") == []


def test_control_without_a_guardian_the_lock_is_free_while_the_orphans_live(tmp_path: Path) -> None:
    """Negative control for the lock and for the guardian: vLLM #55510 in miniature."""
    with family(tmp_path, NAIVE_ENGINE) as people:
        people.kill_engine()
        wait_for_lock(tmp_path)
        assert people.child in people.alive() and people.grandchild in people.alive()


def test_control_a_guardian_that_is_no_subreaper_leaves_the_grandchild(tmp_path: Path) -> None:
    """Negative control: a daemon goes to init then, and the guardian believes that all are gone."""
    source = Path(guardian.__file__).read_text()
    armed = "    prctl(PR_SET_CHILD_SUBREAPER, 1)\n"
    assert armed in source
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "guardian.py").write_text(source.replace(armed, ""))
    with family(tmp_path / "run", program=broken) as people:
        people.kill_engine()
        await_end([people.guardian, people.child], 5)
        assert people.alive() == [people.grandchild]
        assert not is_free(tmp_path / "run" / "cpu.lock"), "inherited: even then nobody else gets the device"


def test_guardian_sigkill_is_seen_by_the_engine_which_ends_the_tree(tmp_path: Path) -> None:
    with family(tmp_path) as people:
        send(people.guardian, signal.SIGKILL)
        assert people.gone()
        assert people.engine.wait(60) == 0, "its wait() returned"
        assert is_free(tmp_path / "cpu.lock")
        assert read_records(tmp_path / "guardians") == []


def test_engine_and_guardian_killed_together_the_next_engine_finds_what_is_left(tmp_path: Path) -> None:
    """The child dies with its guardian; the daemon is found by the tree's name in its environment."""
    with family(tmp_path) as people:
        kill_both(people)
        await_end([people.child], 5)
        assert people.alive() == [people.grandchild]
        assert not is_free(tmp_path / "cpu.lock"), "a survivor keeps the device"
        [record] = read_records(tmp_path / "guardians")
        assert record.child == people.child
        ended = end_survivors([record])
        assert ended.ended == (people.grandchild,) and ended.alive == ()
        assert people.alive() == [] and is_free(tmp_path / "cpu.lock")
        assert read_records(tmp_path / "guardians") == []


def test_a_tree_whose_guardian_lives_can_be_left_to_it(tmp_path: Path) -> None:
    with family(tmp_path, grace_s=1000) as people:
        records = read_records(tmp_path / "guardians")
        assert end_survivors(records, spare_guarded=True).ended == ()
        assert len(people.alive()) == 3
        assert set(end_survivors(records).ended) == set(people.tree)
        assert people.alive() == []


def kill_both(people: Family) -> None:
    # Stopped first: the guardian must not have a moment in which it learns of the engine's death.
    send(people.guardian, signal.SIGSTOP)
    people.kill_engine()
    send(people.guardian, signal.SIGKILL)
    await_end([people.guardian], 5)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_terminated_guardian_ends_its_tree_first_and_ignores_the_keyboard(
    tmp_path: Path, number: signal.Signals
) -> None:
    with family(tmp_path) as people:
        send(people.guardian, number)
        if number is signal.SIGTERM:
            assert people.gone()
        else:
            assert is_alive(people.guardian)
