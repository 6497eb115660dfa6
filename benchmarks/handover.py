"""What a training job costs those who want answers: the whole handover on a real model server and a real trainer.

    python -m benchmarks.handover [--backend llamacpp|vllm|transformers] [--steps 8] [--runs 2] [--json]
        [-c section.key=value]

The embedded model serves, a job trains an adapter of it on HumanEval's solutions, the server sleeps meanwhile, wakes,
is verified, and the new adapter answers a task. Every figure is read off the journal: the moment at which each state
was written. The gap is the time without answers, less the trainer's own steps (their sum as the trainer reports it).

Exit status 1 if a run did not end with the adapter live, if it was not live within a second of the trainer's end, or
if the server had to be started again instead of woken.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path

from benchmarks.humaneval import as_task, problems
from benchmarks.loop import finished
from engine.api_device import DeviceState, DeviceStatus
from engine.api_models import Event, RunState, SessionCreate, SessionRecord
from engine.api_training import TrainJob, TrainRequest
from engine.config import load_config
from engine.home import socket_path
from rune_tui.client import EngineClient
from rune_tui.host import embedded_engine

LIVE_LINE_S = 1.0
"""From the trainer's end to requests that are admitted with the new adapter live."""
ROWS = 24
POLL_S = 0.2
STARTS = frozenset({DeviceState.STARTING, DeviceState.STOPPING})


@dataclass(frozen=True)
class Handover:
    """One run, in seconds."""

    drain: float
    sleep: float
    proof: float
    spawn: float
    """From the spawn to the trainer's first step: imports, base model, quantization."""
    training: float
    """From before the first step to the trainer's end, evaluation and checkpoints included."""
    publish: float
    """The trainer's tree gone, memory proven, adapter in the registry with its GGUF form, job ended."""
    wake: float
    verify: float
    """Answers compared, the new adapter loaded and its answers recorded."""
    live_after: float
    """publish + wake + verify: from the trainer's end to its adapter serving."""
    gap: float
    """Everything but the training."""
    cold_start: float
    """The server's first start, for comparison with the wake."""
    restarted: bool
    adapter_answered: bool


async def serve_once(client: EngineClient, adapter: str | None) -> SessionRecord:
    """One attempt at one task, so that a model server runs, or the adapter is asked."""
    task = as_task(problems(1)[0], attempts=1, seed=0)
    session = await client.create_session(SessionCreate(task=task, adapter=adapter))
    return await finished(client, session.id)


async def train(client: EngineClient, dataset: Path, steps: int, seed: int) -> TrainJob:
    """Queue a job and wait for its end."""
    request = TrainRequest(dataset=str(dataset), preset="quick", max_steps=steps, max_tokens=256, seed=seed)
    job = await client.train(request)
    while job.state in (RunState.QUEUED, RunState.RUNNING):
        await asyncio.sleep(POLL_S)
        job = await client.job(job.id)
    return job


async def one_handover(client: EngineClient, dataset: Path, steps: int, seed: int) -> Handover:
    """Serve, train, serve again; read the journal.

    Args:
        seed: another one for each handover. The same job gives the same bytes, which are live already then.
    """
    await serve_once(client, None)
    since = (await client.health()).last_sequence
    job = await train(client, dataset, steps, seed)
    if job.state is not RunState.SUCCEEDED:
        raise SystemExit(f"The job ended {job.state}: {job.reason}")
    await serving(client)
    events = [event async for event in client.replay(since)]
    asked = await serve_once(client, job.adapter_id)
    first = [event async for event in client.replay(0)]
    return read(events, spent(entries(first)), job, answered=asked.adapter == job.adapter_id and asked.attempts == 1)


async def serving(client: EngineClient) -> None:
    """Return once requests are admitted."""
    status = await client.device()
    while status.state is not DeviceState.SERVING:
        await asyncio.sleep(POLL_S)
        status = await client.device()


def read(events: list[Event], ever: dict[DeviceState, float], job: TrainJob, *, answered: bool) -> Handover:
    """The figures of one handover from its events."""
    entered = entries(events)
    took = spent(entered)
    began = next(moment for state, moment in entered if state is DeviceState.TRAINING)
    ended = next(moment for state, moment in entered if state is DeviceState.RECLAIMING)
    served = next(moment for state, moment in reversed(entered) if state is DeviceState.SERVING)
    before = next(moment for state, moment in entered if state is DeviceState.DRAINING)
    training = float(str(job.metrics["seconds"]))
    live_after = served - ended
    return Handover(
        drain=took.get(DeviceState.DRAINING, 0.0),
        sleep=took.get(DeviceState.SLEEPING, 0.0) + took.get(DeviceState.STOPPING, 0.0),
        proof=took.get(DeviceState.PREFLIGHT, 0.0),
        spawn=ended - began - training,
        training=training,
        publish=took.get(DeviceState.RECLAIMING, 0.0),
        wake=took.get(DeviceState.WAKING, 0.0) + took.get(DeviceState.STARTING, 0.0),
        verify=took.get(DeviceState.VERIFYING, 0.0),
        live_after=live_after,
        gap=served - before - training,
        cold_start=ever.get(DeviceState.STARTING, 0.0),
        restarted=any(state in STARTS for state, _ in entered),
        adapter_answered=answered,
    )


def entries(events: list[Event]) -> list[tuple[DeviceState, float]]:
    """Each state that was entered, with the moment in seconds."""
    found: list[tuple[DeviceState, float]] = []
    for event in events:
        if not event.subject.startswith("device/"):
            continue
        state = DeviceStatus.model_validate(event.payload).state
        if not found or found[-1][0] is not state:
            found.append((state, datetime.fromisoformat(event.timestamp).timestamp()))
    return found


def spent(entered: list[tuple[DeviceState, float]]) -> dict[DeviceState, float]:
    """Seconds in each state; the last one is still in."""
    took: dict[DeviceState, float] = {}
    for (state, moment), (_, after) in pairwise(entered):
        took[state] = took.get(state, 0.0) + after - moment
    return took


def write_rows(path: Path) -> Path:
    """HumanEval's problems with their solutions as prompt-completion rows."""
    rows = [
        {"prompt": problem.prompt, "completion": problem.canonical_solution, "task": problem.task_id.replace("/", "-")}
        for problem in problems(ROWS)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


async def measure(backend: str, steps: int, runs: int, overrides: list[str]) -> list[Handover]:
    """All runs in one home on one engine."""
    with tempfile.TemporaryDirectory(prefix="rune-handover-") as directory:
        home = Path(directory)
        dataset = write_rows(home / "rows.jsonl")
        config = load_config(Path("no user configuration"), [f"inference.backend={backend}", *overrides])
        results: list[Handover] = []
        async with embedded_engine(config, home), EngineClient(socket_path(home)) as client:
            for number in range(1, runs + 1):
                print(f"handover {number}/{runs}", file=sys.stderr)
                results.append(await one_handover(client, dataset, steps, seed=number))
        return results


def table(results: list[Handover]) -> str:
    """One column a run."""
    names = list(asdict(results[0]))
    head = "| seconds | " + " | ".join(f"run {number}" for number in range(1, len(results) + 1)) + " |"
    rows = [head, "|---" * (len(results) + 1) + "|"]
    for name in names:
        values = [getattr(result, name) for result in results]
        cells = [f"{value:.2f}" if isinstance(value, float) else str(value).lower() for value in values]
        rows.append(f"| {name.replace('_', ' ')} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def main() -> int:
    """Exit status 0 when every run's adapter was live in time and answered, on a server that was woken."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--backend", default="llamacpp", choices=["llamacpp", "vllm", "transformers"])
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("-c", dest="config", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = asyncio.run(measure(options.backend, options.steps, options.runs, options.config))
    print(json.dumps([asdict(result) for result in results]) if options.json else table(results))
    good = all(
        result.adapter_answered and not result.restarted and result.live_after <= LIVE_LINE_S for result in results
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
