"""Changing the model server while the engine runs, against starting it cold.

    python -m benchmarks.switch [--backends llamacpp,transformers] [--rounds 2] [-c section.key=value] [--json]

One engine; the backends take turns, each round once. A switch is what `rune-tui backend use` waits for: drain, stop
the old, prove the memory, start the new, reload the adapters, verify. The cold start is the server's own: the time in
STARTING when nothing ran before. Base weights are unpacked before the clock runs. Exit status 1 if a switch failed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.handover import entries, serve_once, spent
from engine.api_device import BackendName, DeviceState
from engine.config import Config, load_config
from engine.home import prepare_home, socket_path
from engine.inference.base_weights import ensure_base_weights
from rune_tui.client import EngineClient
from rune_tui.host import embedded_engine


@dataclass(frozen=True)
class Row:
    """One backend."""

    backend: str
    cold_start_s: float
    switches_s: tuple[float, ...]


async def cold_start(config: Config, home: Path, backend: BackendName) -> float:
    """Seconds in STARTING of the first request to a fresh engine."""
    chosen = config.model_copy(update={"inference": config.inference.model_copy(update={"backend": backend})})
    async with embedded_engine(chosen, home), EngineClient(socket_path(home)) as client:
        since = (await client.health()).last_sequence
        await serve_once(client, None)
        return spent(entries([event async for event in client.replay(since)]))[DeviceState.STARTING]


async def measure(backends: list[BackendName], rounds: int, overrides: list[str]) -> list[Row]:
    """Cold starts first, then the switches on one engine."""
    config = load_config(Path("no user configuration"), [f"inference.backend={backends[0]}", *overrides])
    with tempfile.TemporaryDirectory(prefix="rune-switch-") as directory:
        home = Path(directory)
        prepare_home(home)
        await ensure_base_weights(config, home, lambda note: print(note, file=sys.stderr))
        cold = {backend: await cold_start(config, home, backend) for backend in backends}
        took: dict[BackendName, list[float]] = {backend: [] for backend in backends}
        async with embedded_engine(config, home), EngineClient(socket_path(home)) as client:
            await serve_once(client, None)
            for backend in [*backends[1:], backends[0]] * rounds:
                done = await client.use_backend(backend)
                if not done.switched:
                    raise SystemExit(f"{backend}: {done.reason}")
                took[backend].append(done.seconds)
    return [Row(backend, cold[backend], tuple(took[backend])) for backend in backends]


def table(rows: list[Row]) -> str:
    """The rows as README quotes them."""
    head = ["| backend | cold start, s | switches to it, s |", "|---|---|---|"]
    body = [
        f"| {row.backend} | {row.cold_start_s:.2f} | {', '.join(f'{s:.2f}' for s in row.switches_s)} |" for row in rows
    ]
    return "\n".join(head + body)


def main() -> int:
    """Exit status 0 when every switch ended with the backend that was asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--backends", default="llamacpp,transformers")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("-c", dest="config", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    backends = [BackendName(name) for name in options.backends.split(",")]
    rows = asyncio.run(measure(backends, options.rounds, options.config))
    print(json.dumps([asdict(row) for row in rows]) if options.json else table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
