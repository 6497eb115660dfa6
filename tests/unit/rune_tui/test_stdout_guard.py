"""stdout carries JSON Lines only, whatever writes to descriptor 1: Python, native code, a child process."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

NOISE = """
import ctypes, os, subprocess, sys
from rune_tui.stdout_guard import StdoutGuard

def noise():
    print("python noise", flush=True)
    os.write(1, b"descriptor noise\\n")
    libc = ctypes.CDLL(None)
    libc.printf(b"native noise\\n")
    libc.fflush(None)
    subprocess.run([sys.executable, "-c", "import os; os.write(1, b'child noise\\\\n')"], check=True)

{body}
"""

GUARDED = """
with StdoutGuard() as out:
    out.write({"type": "launch"})
    noise()
    out.write({"type": "done", "text": "\\u2603\\n\\x1b[2J\\u2028"})
print("after")
"""

UNGUARDED = """
print('{"type": "launch"}', flush=True)
noise()
"""


def start(body: str, *, close: tuple[int, ...] = ()) -> subprocess.CompletedProcess[bytes]:
    code = NOISE.replace("{body}", body)
    closing = "".join(f"exec {fd}>&-; " for fd in close)
    return subprocess.run(
        ["sh", "-c", f'{closing}exec "$0" -c "$1"', sys.executable, code],
        capture_output=True,
        timeout=150,
        check=False,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )


def test_noise_of_every_kind_goes_to_stderr() -> None:
    done = start(GUARDED)
    assert done.returncode == 0, done.stderr.decode()
    *records, after = done.stdout.splitlines()
    assert [json.loads(line)["type"] for line in records] == ["launch", "done"]
    assert json.loads(records[1])["text"] == "☃\n\x1b[2J\u2028"
    assert done.stdout.isascii() and b"\x1b" not in done.stdout
    assert after == b"after", "stdout is given back at the end"
    for kind in (b"python noise", b"descriptor noise", b"native noise", b"child noise"):
        assert kind in done.stderr


def test_without_the_guard_the_same_noise_is_caught_by_this_test() -> None:
    """Negative control: each of the four kinds really reaches descriptor 1."""
    done = start(UNGUARDED)
    noise = [line for line in done.stdout.splitlines() if not line.startswith(b"{")]
    assert len(noise) == 4


def test_closed_stderr_does_not_let_noise_through() -> None:
    done = start(GUARDED.replace('print("after")', ""), close=(2,))
    assert [json.loads(line)["type"] for line in done.stdout.splitlines()] == ["launch", "done"]


def test_closed_stdout_is_an_error_of_the_environment() -> None:
    body = """
from rune_tui.stdout_guard import StdoutClosedError
try:
    with StdoutGuard():
        pass
except StdoutClosedError as error:
    sys.stderr.write(f"refused: {error}")
"""
    assert b"refused: stdout is closed" in start(body, close=(1,)).stderr


def test_a_reader_that_has_gone_is_told_from_a_slow_one() -> None:
    body = """
import fcntl, threading
read, write = os.pipe()
os.dup2(write, 1)
fcntl.fcntl(write, fcntl.F_SETFL, os.O_NONBLOCK)
got = bytearray()
def slow():
    while chunk := os.read(read, 1000):
        got.extend(chunk)
        if got.endswith(b"\\n"):
            return
reader = threading.Thread(target=slow)
from rune_tui.stdout_guard import StdoutClosedError
with StdoutGuard() as out:
    reader.start()
    out.write({"text": "x" * 300_000})
    reader.join()
    os.close(read)
    try:
        out.write({})
    except StdoutClosedError:
        sys.stderr.write(f"gone after {len(got)}")
"""
    done = start(body)
    assert done.stderr.decode() == f"gone after {len(json.dumps({'text': 'x' * 300_000})) + 1}"


@pytest.mark.parametrize("value", [float("nan"), {"a": {1, 2}}])
def test_what_is_not_json_is_refused_rather_than_written(value: object, capfd: pytest.CaptureFixture[str]) -> None:
    from rune_tui.stdout_guard import StdoutGuard

    with StdoutGuard() as out, pytest.raises((ValueError, TypeError)):
        out.write({"value": value})
    assert capfd.readouterr().out == ""
