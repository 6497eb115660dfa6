"""I7: signals go to the very processes that were recorded, and never to init, to groups, or to anybody else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.device import guardian, processes
from engine.device.contracts import ProcessId
from engine.device.processes import (
    Record,
    boot_id,
    command_line,
    descendants,
    end_survivors,
    is_alive,
    process_id,
    read_record,
    read_records,
    send,
    survivors,
)

TREE = "0123456789abcdef" * 2
GONE = ProcessId(2**22 + 1, 1)
"""Above the kernel's highest number."""
WHOLE: dict[str, Any] = {
    "pid": 4000,
    "start_time": 1,
    "child": 4001,
    "child_start_time": 2,
    "epoch": 3,
    "role": "server",
    "boot_id": "b",
    "tree": TREE,
}


@pytest.fixture
def sleeper() -> Iterator[ProcessId]:
    """A process that is not ours to end."""
    program = "import time; print(1, flush=True); time.sleep(1000)"
    child = subprocess.Popen([sys.executable, "-I", "-S", "-c", program], stdout=subprocess.PIPE, text=True)
    assert child.stdout and child.stdout.readline() == "1\n"
    found = process_id(child.pid)
    assert found
    yield found
    child.kill()
    child.wait()
    child.stdout.close()


def record(path: Path, process: ProcessId, child: ProcessId | None = None, **changes: str) -> Record:
    return Record(path, "server", process, child, 1, changes.get("boot", boot_id()), changes.get("tree", TREE))


def test_a_process_is_its_number_and_its_start(sleeper: ProcessId) -> None:
    assert is_alive(sleeper)
    assert not is_alive(ProcessId(sleeper.pid, sleeper.start_time + 1))
    assert process_id(GONE.pid) is None


def test_a_corpse_is_not_alive() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert process_id(child.pid) is None
    child.wait()


def test_pid_reuse_is_spared(tmp_path: Path, sleeper: ProcessId) -> None:
    """The recorded process is dead and its number was given to somebody else."""
    other = ProcessId(sleeper.pid, sleeper.start_time - 1)
    assert not send(other, signal.SIGKILL)
    path = tmp_path / "server.json"
    path.touch()
    assert end_survivors([record(path, other, other)]).ended == ()
    assert is_alive(sleeper)
    assert not path.exists(), "it names nobody that lives"


def test_control_without_the_start_time_the_wrong_process_would_be_ended(tmp_path: Path, sleeper: ProcessId) -> None:
    """Negative control: by its number alone it would have been hit."""
    ended = end_survivors([record(tmp_path / "server.json", GONE, sleeper)])
    assert ended.ended == (sleeper,) and not is_alive(sleeper)


def test_records_of_another_boot_are_void(tmp_path: Path, sleeper: ProcessId) -> None:
    assert end_survivors([record(tmp_path / "r.json", sleeper, sleeper, boot="of yesterday")]).ended == ()
    assert is_alive(sleeper)


def test_what_descends_from_a_recorded_child_is_found(tmp_path: Path) -> None:
    program = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1, flush=True); input()'])"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout and child.stdout.readline() == "1\n"
        found = process_id(child.pid)
        assert found
        [helper] = descendants(found)
        left = end_survivors([record(tmp_path / "r.json", GONE, found)])
        assert set(left.ended) == {found, helper} and left.alive == ()
    assert descendants(found) == ()


def test_a_process_is_found_by_its_trees_name_and_others_are_not(sleeper: ProcessId) -> None:
    environment = {"RUNE_TREE": TREE, "OTHER": "x"}
    with subprocess.Popen([sys.executable, "-c", "input()"], env=environment, stdin=subprocess.PIPE) as child:
        assert processes.marked(TREE) == (process_id(child.pid),)
        assert processes.marked(TREE[:-1]) == (), "a part of a name is not the name"
        assert processes.marked("f" * 32) == ()
        child.kill()


@pytest.mark.parametrize(
    "pid",
    [1, 0, -1, -os.getpid(), -(2**31)],
    ids=["init", "own group", "everybody", "a group", "least"],  # a number would be another one in each worker
)
def test_i7_init_and_groups_are_never_signalled(pid: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []
    monkeypatch.setattr(signal, "pidfd_send_signal", lambda *arguments: sent.append(arguments[0]))
    start = guardian.start_time(1)
    assert process_id(pid) is None
    assert not is_alive(ProcessId(pid, start))
    assert not send(ProcessId(pid, start), signal.SIGKILL)
    with pytest.raises(AssertionError):
        guardian.send(pid, signal.SIGKILL, {0, 1, os.getpid()})
    assert sent == []


def test_control_init_is_alive_and_would_have_matched() -> None:
    """Negative control for the above: pid 1 has the start time that was given."""
    assert guardian.start_time(1) >= 0 and guardian.stat_fields(1)


def test_the_guardian_signals_members_of_its_family_only(sleeper: ProcessId) -> None:
    """A number that went to somebody else between the look and the signal is not hit."""
    guardian.send(sleeper.pid, signal.SIGKILL, {GONE.pid})
    assert is_alive(sleeper)
    guardian.send(sleeper.pid, signal.SIGKILL, {os.getpid()})
    processes.await_end([sleeper], 5)
    assert not is_alive(sleeper)


MALFORMED: dict[str, object] = {
    "init": WHOLE | {"pid": 1},
    "group": WHOLE | {"pid": -4000},
    "child is init": WHOLE | {"child": 1},
    "child is everybody": WHOLE | {"child": -1},
    "text for a number": WHOLE | {"pid": "4000"},
    "true": WHOLE | {"pid": True},
    "fraction": WHOLE | {"start_time": 1.5},
    "huge": WHOLE | {"pid": 1 << 70},
    "null": WHOLE | {"tree": None},
    "empty name": WHOLE | {"tree": ""},
    "short name": WHOLE | {"tree": "ab"},
    "foreign name": WHOLE | {"tree": "/" * 32},
    "missing": {name: WHOLE[name] for name in WHOLE if name != "boot_id"},
    "list": [WHOLE],
    "number": 7,
}


@pytest.mark.parametrize("value", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_records_name_nobody(tmp_path: Path, value: object) -> None:
    path = tmp_path / "server.json"
    path.write_text(json.dumps(value))
    assert read_record(path) is None and read_records(tmp_path) == []


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b" " * 70_000 + b"{}", b'{"pid": NaN}'])
def test_torn_records_name_nobody(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "server.json").write_bytes(raw)
    assert read_records(tmp_path) == []


def test_a_whole_record_is_read_and_directories_and_absent_ones_are_not(tmp_path: Path) -> None:
    (tmp_path / "trainer.json").mkdir()
    (tmp_path / "server.json").write_text(json.dumps(WHOLE))
    (tmp_path / "server.json.77.tmp").write_text(json.dumps(WHOLE))
    [found] = read_records(tmp_path)
    assert (found.guardian, found.child, found.epoch) == (ProcessId(4000, 1), ProcessId(4001, 2), 3)
    assert read_records(tmp_path / "nowhere") == []


@given(st.dictionaries(st.sampled_from(sorted(WHOLE)), st.one_of(st.none(), st.integers(), st.text(), st.booleans())))
def test_whatever_a_record_says_only_whole_ones_count(changes: dict[str, object]) -> None:
    raw = WHOLE | changes
    try:
        found = processes._record(Path("r"), raw)  # pyright: ignore[reportPrivateUsage]
    except ValueError:
        return
    assert found.guardian.pid >= 2 and (found.child is None or found.child.pid >= 2) and len(found.tree) == 32


def test_what_the_guardian_writes_is_what_we_read(tmp_path: Path) -> None:
    path = tmp_path / "server.json"
    argv = ["1", str(path), "server", "7", boot_id(), TREE, "1", "1", "free", "--", "true"]
    settings = guardian.Settings(argv)
    guardian.write_record(settings, os.getpid(), 0)
    found = read_record(path)
    assert found and found.guardian == process_id(os.getpid()) and found.child is None
    assert (found.role, found.epoch, found.tree) == ("server", 7, TREE)
    assert [entry.name for entry in tmp_path.iterdir()] == ["server.json"]
    guardian.write_record(settings, os.getpid(), os.getpid())
    again = read_record(path)
    assert again and again.child and again.child.pid == os.getpid()
    assert survivors(again, "another boot") == ()


def test_a_command_line_is_short_and_empty_for_nobody(sleeper: ProcessId) -> None:
    line = command_line(sleeper.pid)
    assert line.startswith(sys.executable[:40]) and len(line) <= 80
    assert command_line(GONE.pid) == ""
