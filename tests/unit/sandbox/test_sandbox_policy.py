"""The sandbox's decisions as data: bubblewrap line, plan, filter, capture, watchdog, deletion."""

from __future__ import annotations

import errno
import itertools
import os
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import InputError
from engine.sandbox import watch
from engine.sandbox.bwrap import Mounts, bwrap_argv, system_mounts
from engine.sandbox.inside import landlock, seccomp
from engine.sandbox.launch import remove_tree
from engine.sandbox.output import Capture
from engine.sandbox.plan import Interpreter, Place, make_plan, resource_limits
from engine.sandbox.types import Level, Limits, Program
from engine.sandbox.watch import Usage, breach

LIMITS = Limits(timeout_s=2.5, memory_mb=100, processes=8, open_files=64, file_mb=1, scratch_mb=2, output_bytes=1000)
PLACE = Place(Level.STRICT, "/tmp", Interpreter("/opt/py/bin/python3.11", "/opt/py"), 6, False, {"net": "net:[1]"})
PROGRAM = Program(files={"a.py": "x"}, argv=("a.py",), channel_fds=(9,), readonly_paths=("/lib-extra",))


def pairs(argv: list[str], option: str) -> set[tuple[str, str]]:
    return {(argv[i + 1], argv[i + 2]) for i, part in enumerate(argv) if part == option}


def test_a22_the_bubblewrap_line_is_exactly_this() -> None:
    mounts = Mounts("/host/inside", ("/opt/py", "/usr"), (("usr/lib", "/lib"),), scratch_mb=2)
    assert bwrap_argv("/usr/bin/bwrap", mounts, ["python", "x"]) == [
        "/usr/bin/bwrap",
        "--unshare-user",
        "--unshare-pid",
        "--unshare-net",
        "--unshare-ipc",
        "--unshare-uts",
        "--unshare-cgroup-try",
        "--disable-userns",
        "--die-with-parent",
        "--new-session",
        "--clearenv",
        "--cap-drop",
        "ALL",
        "--hostname",
        "sandbox",
        "--perms",
        "0700",
        "--size",
        "2097152",
        "--tmpfs",
        "/tmp",
        "--ro-bind",
        "/opt/py",
        "/opt/py",
        "--ro-bind",
        "/usr",
        "/usr",
        "--symlink",
        "usr/lib",
        "/lib",
        "--proc",
        "/proc",
        "--dev",
        "/dev",
        "--perms",
        "0700",
        "--size",
        "16777216",
        "--tmpfs",
        "/dev/shm",
        "--ro-bind",
        "/host/inside",
        "/rune",
        "--remount-ro",
        "/dev",
        "--remount-ro",
        "/",
        "--chdir",
        "/tmp",
        "--",
        "python",
        "x",
    ]


def test_a22_nothing_of_the_host_is_writable_or_private() -> None:
    argv = bwrap_argv("/usr/bin/bwrap", system_mounts("/inside", sys.base_prefix, ("/srv/lib",), 2), ["python"])
    assert not {"--bind", "--dev-bind", "--bind-try", "--share-net", "--unshare-all"} & set(argv)
    shown = {path for _, path in pairs(argv, "--ro-bind")}
    assert {"/usr", "/srv/lib"} <= shown
    assert not {"/", "/etc", "/home", "/run", "/root", "/var", "/sys"} & shown


def test_a_prefix_inside_another_mount_is_not_mounted_twice() -> None:
    assert system_mounts("/i", "/usr", ("/usr/lib/python3", "/usrx"), 1).readonly[-2:] == ("/usr", "/usrx")


def test_the_plan_of_each_level() -> None:
    strict = make_plan(PROGRAM, LIMITS, PLACE)
    assert (strict["supervise"], strict["confine"], strict["namespaces"]) == (False, True, {"net": "net:[1]"})
    assert (strict["free_signals"], strict["free_groups"], strict["free_metadata"]) == (True, True, True)
    assert strict["keep"] == [9]
    below = make_plan(PROGRAM, LIMITS, replace(PLACE, level=Level.LANDLOCK, landlock_abi=4, scratch="/s"))
    assert (below["supervise"], below["confine"], below["namespaces"]) == (True, True, {})
    assert (below["free_signals"], below["free_groups"], below["free_metadata"]) == (False, False, False)
    assert make_plan(PROGRAM, LIMITS, replace(PLACE, level=Level.NONE))["confine"] is False
    assert make_plan(PROGRAM, LIMITS, replace(PLACE, as_root=True))["free_metadata"] is False


def test_only_scratch_is_granted_for_writing() -> None:
    rules = dict(make_plan(PROGRAM, LIMITS, replace(PLACE, level=Level.LANDLOCK, scratch="/s"))["rules"])
    assert {path for path, grant in rules.items() if grant == "write"} == {"/s"}
    assert {path for path, grant in rules.items() if grant == "read"} == {"/lib-extra"}
    assert not {"/", "/etc", "/home", "/proc", "/dev", "/tmp", "/run", "/dev/shm"} & set(rules)


def test_processes_are_limited_only_inside_a_user_namespace() -> None:
    """NPROC counts all of a user's processes elsewhere: it would starve the engine."""
    assert "RLIMIT_NPROC" not in resource_limits(LIMITS, own_user_namespace=False)
    limits = resource_limits(LIMITS, own_user_namespace=True)
    assert limits["RLIMIT_NPROC"] == (8, 8)
    assert limits["RLIMIT_CPU"] == (3, 4)
    assert limits["RLIMIT_AS"] == (100 << 20, 100 << 20)
    assert limits["RLIMIT_CORE"] == (0, 0)


def test_files_over_the_scratch_limit_are_refused() -> None:
    big = {f"{i}": "x" * (1 << 20) for i in range(3)}
    with pytest.raises(InputError, match="scratch_mb"):
        make_plan(replace(PROGRAM, files=big), LIMITS, PLACE)


@pytest.mark.parametrize(("version", "size"), [(1, 8), (3, 8), (4, 16), (5, 16), (6, 24), (7, 24)])
def test_landlock_attributes_are_as_long_as_each_abi_expects(version: int, size: int) -> None:
    assert len(landlock.ruleset_attributes(version)) == size


def test_landlock_handles_whatever_it_grants_and_grants_no_nodes() -> None:
    files, network, scopes = landlock.handled(7)
    assert (files, network, scopes) == (0xFFFF, 0b11, 0b11)
    for grant in landlock.GRANTS.values():
        assert grant & ~files == 0
        assert grant & (1 << 6 | 1 << 9 | 1 << 10 | 1 << 11) == 0, "no devices, sockets or pipes"


ALLOW, KILL = 0x7FFF0000, 0x80000000
EPERM, NOSYS = 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS


def decide(filter_: list[seccomp.Instruction], number: int, *arguments: int, architecture: int = 0xC000003E) -> int:
    """A classic BPF machine, small: what the kernel would answer."""
    words = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("<iIQ6Q", number, architecture, 0, *(word & (1 << 64) - 1 for word in words))
    accumulator, at = 0, 0
    while True:
        code, yes, no, operand = filter_[at]
        at += 1
        match code:
            case 0x20:
                accumulator = struct.unpack_from("<I", data, operand)[0]
            case 0x54:
                accumulator &= operand
            case 0x06:
                return operand
            case _:
                holds = {0x15: accumulator == operand, 0x35: accumulator >= operand, 0x45: bool(accumulator & operand)}
                at += yes if holds[code] else no


def build(*, signals: bool = True, groups: bool = True, metadata: bool = True, machine: str = "x86_64"):
    return seccomp.build(machine, pid=1234, free_signals=signals, free_groups=groups, free_metadata=metadata)


def test_a22_every_denied_call_is_denied_on_both_architectures() -> None:
    for machine, (architecture, column) in seccomp.ARCHITECTURES.items():
        filter_ = build(machine=machine)
        for name, numbers in seccomp.DENIED.items():
            number = numbers[column]
            if number is not None:
                assert decide(filter_, number, architecture=architecture) == EPERM, name
        assert decide(filter_, 63 if machine == "aarch64" else 0, architecture=architecture) == ALLOW, "read"


@pytest.mark.parametrize(
    ("call", "answer"),
    [
        ((56, 0x11), ALLOW),  # fork
        ((56, 0x3D0F00), ALLOW),  # a thread
        ((56, 0x10000011), EPERM),  # clone into a user namespace
        ((435,), NOSYS),  # clone3
        ((450,), NOSYS),
        ((1000,), NOSYS),
        ((0x40000000 | 1,), KILL),  # x32
        ((53, 1, 1 | 0x80000), ALLOW),  # a stream pair, close-on-exec
        ((53, 1, 2), EPERM),  # a datagram pair
        ((53, 2, 1), EPERM),
        ((44, 3, 1, 1, 0, 0), ALLOW),  # send
        ((44, 3, 1, 1, 0, 0x1000), EPERM),  # sendto an address
        ((44, 3, 1, 1, 0, 1 << 32), EPERM),  # an address whose lower half is zero
        ((16, 0, 0x5412), EPERM),  # TIOCSTI
        ((16, 0, 0x5412 | 1 << 32), EPERM),  # the kernel looks at the lower half only
        ((16, 0, 0x5401), ALLOW),
        ((72, 0, 8), EPERM),  # F_SETOWN
        ((72, 0, 1), ALLOW),
        ((302, 0, 1), ALLOW),  # its own limits
        ((302, 77, 1), EPERM),
        ((141, 0, 0, 5), ALLOW),  # its own niceness
        ((141, 0, 77, 5), EPERM),
        ((141, 2, 0, 5), EPERM),  # all of the user's processes
    ],
)
def test_a22_calls_are_judged_by_their_arguments(call: tuple[int, ...], answer: int) -> None:
    assert decide(build(), *call) == answer


def test_a22_a_foreign_architecture_dies() -> None:
    assert decide(build(), 0, architecture=0x40000003) == KILL


def test_a22_without_a_scope_only_its_own_process_and_group_can_be_signalled() -> None:
    tight = build(signals=False)
    assert [decide(tight, 62, target, 9) for target in (1234, 0, -1234)] == [ALLOW] * 3
    assert [decide(tight, 62, target, 9) for target in (1, -1, 1235, -77)] == [EPERM] * 4
    assert decide(tight, 234, 1234, 1240, 6) == ALLOW, "abort"
    assert decide(tight, 234, 1, 1, 6) == decide(tight, 424, 5) == EPERM
    assert decide(build(), 62, 1, 9) == ALLOW


def test_a22_groups_and_modes_where_they_are_not_free() -> None:
    assert decide(build(groups=False), 112) == decide(build(groups=False), 109) == EPERM
    assert decide(build(metadata=False), 90) == 0x50000, "succeeds without effect"
    assert decide(build(metadata=False), 92) == EPERM
    assert decide(build(), 112) == decide(build(), 90) == ALLOW


@given(st.lists(st.binary(max_size=50), max_size=40), st.integers(2, 200))
def test_a23_the_capture_keeps_both_ends_within_its_limit(chunks: list[bytes], limit: int) -> None:
    capture, whole = Capture(limit), b"".join(chunks)
    for chunk in chunks:
        capture.feed(chunk)
    ascii_whole = whole.decode("utf-8", "replace")
    if len(whole) <= limit:
        assert (capture.text(), capture.truncated) == (ascii_whole, False)
        return
    assert capture.truncated
    head, tail = whole[: limit // 2], whole[len(whole) - (limit - limit // 2) :]
    marker = f"\n[output truncated: {len(whole) - limit} bytes left out]\n"
    assert capture.text() == marker.join(part.decode("utf-8", "replace") for part in (head, tail))


@pytest.mark.parametrize(
    ("usage", "reason"),
    [
        (Usage(8, 100 << 20, 2 << 20, 100), ""),
        (Usage(memory=(100 << 20) + 1), "memory"),
        (Usage(scratch=(2 << 20) + 1), "scratch"),
        (Usage(entries=watch.MAX_ENTRIES + 1), "scratch"),
        (Usage(processes=9), "processes"),
    ],
)
def test_a22_the_watchdog_allows_the_limit_and_no_more(usage: Usage, reason: str) -> None:
    assert breach(usage, LIMITS) == reason


def test_the_watchdog_sees_the_whole_tree_and_deleted_files(tmp_path: Path) -> None:
    grandchild = "import sys; x = bytearray(b'x') * (40 << 20); print('up', flush=True); sys.stdin.read()"
    child = (
        "import os, subprocess, sys\n"
        f"f = open({str(tmp_path / 'gone')!r}, 'wb', buffering=0)\nf.write(bytes(3 << 20))\nos.unlink(f.name)\n"
        f"subprocess.call([sys.executable, '-S', '-c', {grandchild!r}])"
    )
    (tmp_path / "kept").write_bytes(b"x" * (1 << 20))
    others = set(watch.descendants(os.getpid()))
    with subprocess.Popen(
        [sys.executable, "-S", "-c", child], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout and process.stdout.readline() == b"up\n"
        usage = watch.measure(os.getpid(), str(tmp_path))
        assert {process.pid} < set(watch.descendants(os.getpid())) - others
        assert watch.kill_tree(process.pid)
    assert usage.processes >= 2
    assert usage.memory >= 40 << 20
    assert usage.scratch >= 4 << 20
    assert set(watch.descendants(os.getpid())) <= others


def test_a_hostile_tree_is_deleted_and_nothing_beside_it(tmp_path: Path) -> None:
    """Deeper than any path may be long, unreadable directories, links that lead outside."""
    outside, top = tmp_path / "outside", tmp_path / "run"
    outside.mkdir()
    (outside / "kept").write_text("x")
    top.mkdir()
    os.symlink(outside, top / "link")
    os.link(outside / "kept", top / "hard")
    (top / "locked").mkdir()
    (top / "locked" / "f").write_text("x")
    (top / "locked").chmod(0)
    here = os.open(top, os.O_RDONLY)
    for _ in itertools.repeat(None, 3000):
        os.mkdir("deep", dir_fd=here)
        below = os.open("deep", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    remove_tree(top)
    assert not top.exists()
    assert (outside / "kept").read_text() == "x"
    remove_tree(top)  # again is harmless
