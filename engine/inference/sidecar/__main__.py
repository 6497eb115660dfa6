"""Entry point of the sidecar: `python -m engine.inference.sidecar --backend llamacpp --uds PATH --model PATH ...`.

It lives exactly as long as its parent: the kernel kills it when the parent dies (PR_SET_PDEATHSIG), and the end of
its standard input, where that is a pipe, stops it too, which also covers a parent that died before that was set.
The key comes by the environment, never by the command line, which every user of the machine can read.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import os
import signal
import socket
import stat
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn

from engine.inference.sidecar.app import create_app
from engine.inference.sidecar.backend import Backend, BackendError
from registry.clock import SystemClock
from registry.safeload import AdapterLimits

KEY_VARIABLE = "RUNE_SIDECAR_KEY"
MIN_KEY_LENGTH = 32
"""Characters of the key: 128 bits in hex, at least."""
PR_SET_PDEATHSIG = 1
OPENMP_SPINS = "300"
"""How long llama.cpp's threads spin for each other before they sleep. They meet 900 times a token; by default they
spin for ever, and one busy neighbour makes a token last 1 s in place of 8 ms. So: 40 ms then, and 9 ms when alone."""
SHUTDOWN_SECONDS = 2
"""Answers that are still being sent get this long; they are aborted by then."""


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m engine.inference.sidecar", description="A model server.")
    parser.add_argument("--backend", choices=("llamacpp", "scripted", "transformers"), required=True)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--uds", type=Path, help="Unix socket to serve on; made with mode 0600")
    where.add_argument("--port", type=int, help="port on 127.0.0.1 instead")
    parser.add_argument("--model", type=Path, help="GGUF file (llamacpp), Hugging Face directory (transformers)")
    parser.add_argument("--four-bit", action="store_true", help="hold the model in NF4 (transformers)")
    parser.add_argument("--model-name", required=True, help="name of the base model in requests")
    parser.add_argument("--script", type=Path, help="JSON script (scripted); absent: the built-in rules")
    # No defaults here: those of config.toml are the only ones.
    parser.add_argument("--context", type=int, required=True, help="tokens of one request, prompt and answer together")
    parser.add_argument("--parallel", type=int, required=True, help="answers that are generated together")
    parser.add_argument("--threads", type=int, required=True, help="CPU threads; 0 means every core")
    parser.add_argument("--max-adapter-mb", type=int, required=True)
    parser.add_argument("--max-rank", type=int, required=True)
    parser.add_argument("--scratch", type=Path, help="folder for converted adapters")
    parser.add_argument("--orphan", action="store_true", help="do not watch the parent: for use by hand")
    return parser.parse_args(argv)


def _backend(arguments: argparse.Namespace) -> Backend:
    limits = AdapterLimits(arguments.max_adapter_mb << 20, arguments.max_rank)
    # Imported here, so that each backend starts without the libraries of the others.
    if arguments.backend == "scripted":
        from engine.inference.sidecar.adapter_files import check_adapter
        from engine.inference.sidecar.script import Script
        from engine.inference.sidecar.scripted import ScriptedBackend

        script = Script.read(arguments.script)
        return ScriptedBackend(script, partial(check_adapter, limits=limits), arguments.context, arguments.parallel)
    # Read by the OpenMP library when llama.cpp or torch loads it, just below.
    os.environ.setdefault("GOMP_SPINCOUNT", OPENMP_SPINS)
    if arguments.backend == "transformers":
        from engine.inference.sidecar.transformers_backend import TransformersBackend, TransformersSettings

        return TransformersBackend(
            TransformersSettings(**_sizes(arguments), limits=limits, four_bit=arguments.four_bit)
        )
    from engine.inference.sidecar.llamacpp import LlamaBackend, LlamaSettings

    return LlamaBackend(LlamaSettings(**_sizes(arguments), limits=limits))


def _sizes(arguments: argparse.Namespace) -> dict[str, Any]:
    """What both backends with a model are told."""
    return {
        "model": arguments.model,
        "context_tokens": arguments.context,
        "parallel": arguments.parallel,
        "threads": arguments.threads or os.cpu_count() or 1,
        "scratch": arguments.scratch,
    }


def _die_with_parent(stop: signal.Signals = signal.SIGKILL) -> None:
    """Ask the kernel to kill this process when its parent ends, and watch standard input for the same."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, int(stop), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    # Under a guardian it is /dev/null, whose end means nothing: the guardian is the parent that is watched then.
    if not stat.S_ISCHR(os.fstat(0).st_mode):
        threading.Thread(target=_end_with_stdin, name="stdin", daemon=True).start()


def _end_with_stdin() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


async def _serve(arguments: argparse.Namespace, backend: Backend, key: str) -> None:
    await backend.start()
    app = create_app(backend, arguments.model_name, key, SystemClock())
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        lifespan="off",
    )
    # uvicorn raises SIGTERM again when it has stopped; ignored, so that the backend is closed in order.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        await uvicorn.Server(config).serve(sockets=[_listen(arguments)])
    finally:
        await backend.aclose()


def _listen(arguments: argparse.Namespace) -> socket.socket:
    """The listening socket. uvicorn would make a Unix socket with mode 0666; this one is 0600 from its first moment."""
    if arguments.uds is None:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", arguments.port))
        return listener
    arguments.uds.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(str(arguments.uds))
    finally:
        os.umask(before)
    return listener


def main(argv: list[str] | None = None) -> int:
    """Serve until told to stop. 0: stopped; 1: the model could not be loaded; 2: usage."""
    arguments = _arguments(sys.argv[1:] if argv is None else argv)
    key = os.environ.pop(KEY_VARIABLE, "")
    if len(key) < MIN_KEY_LENGTH:
        print(f"{KEY_VARIABLE} must hold a key of {MIN_KEY_LENGTH} characters or more", file=sys.stderr)  # noqa: T201 # the log file
        return 2
    if not arguments.orphan:
        _die_with_parent()
    os.umask(0o077)
    try:
        asyncio.run(_serve(arguments, _backend(arguments), key))
    except BackendError as error:
        print(f"sidecar: {error}", file=sys.stderr)  # noqa: T201 # the log file
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
