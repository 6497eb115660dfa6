"""★H1: what a real engine process and its children listen on, and with which rights (P6)."""

from __future__ import annotations

import socket
import stat
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.engine_process import Process, process
from support.ports import free_port

TASK = {"task": {"id": "t", "prompt": "Write add(a, b).", "mode": "attempt", "max_attempts": 1}}
LOOPBACK = {"127.0.0.1", "::1"}


def listening(pid: int) -> tuple[list[str], list[str]]:
    """(TCP and UDP addresses, paths of Unix sockets) that a process tree listens on."""
    inet: list[str] = []
    unix: list[str] = []
    for member in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        # Children come and go (sandboxed runs); the engine itself and its model server stay.
        with suppress(psutil.NoSuchProcess):
            inet += [bound.laddr.ip for bound in member.net_connections("inet") if bound.laddr and listens(bound)]
            unix += [str(bound.laddr) for bound in member.net_connections("unix") if bound.laddr]
    return inet, unix


def listens(bound: Any) -> bool:
    return bool(bound.status == psutil.CONN_LISTEN or bound.type == socket.SOCK_DGRAM)


def serve_a_model(engine: Process) -> None:
    """Have the engine start its model server, so that the children are there too."""
    engine.http.post("/sessions", json=TASK)
    deadline = time.monotonic() + 150
    while engine.http.get("/health").json()["model_state"] != "serving":
        assert time.monotonic() < deadline, "the model server did not start"
        time.sleep(0.05)


def test_h1_by_default_only_unix_sockets_that_nobody_else_can_open(home: Path) -> None:
    with process(home) as engine:
        engine.wait_ready()
        serve_a_model(engine)
        inet, unix = listening(engine.child.pid)
        assert inet == []
        assert str(home / "run" / "engine.sock") in unix
        for path in map(Path, unix):
            if path.is_absolute() and path.exists():
                private = stat.S_IMODE(path.parent.stat().st_mode) & 0o077 == 0
                assert private or stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
        assert stat.S_IMODE((home / "run" / "engine.sock").stat().st_mode) == 0o600


def test_h1_tcp_is_loopback_with_a_token_of_256_bits_in_a_private_file(home: Path) -> None:
    port = free_port()
    with process(home, f'engine.tcp="127.0.0.1:{port}"') as engine:
        engine.wait_ready()
        assert set(listening(engine.child.pid)[0]) <= LOOPBACK
        token = home / "run" / "token"
        assert stat.S_IMODE(token.stat().st_mode) == 0o600
        assert len(bytes.fromhex(token.read_text())) == 32
        first = token.read_text()
        engine.http.post("/shutdown")
        assert engine.end() == 0
        assert not token.exists()
    with process(home, f'engine.tcp="127.0.0.1:{port}"') as engine:
        engine.wait_ready()
        assert token.read_text() != first, "a token is made anew at each start"


@pytest.mark.parametrize("address", ["0.0.0.0:8750", "[::]:8750", "192.0.2.1:80"])
def test_h1_anything_but_loopback_is_refused_with_one_sentence(home: Path, address: str) -> None:
    with process(home, f'engine.tcp="{address}"') as engine:
        assert engine.end() == 2
        said = engine.stderr()
    assert "loopback" in said and len(said.splitlines()) == 1 and "Traceback" not in said


def test_control_a_wildcard_listener_is_seen(home: Path) -> None:
    """Negative control: the check above notices a socket that is open to the network."""
    with socket.socket() as wildcard:
        wildcard.bind(("0.0.0.0", 0))
        wildcard.listen()
        inet, _ = listening(psutil.Process().pid)
    assert not set(inet) <= LOOPBACK
