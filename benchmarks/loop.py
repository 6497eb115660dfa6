"""Does the loop earn its keep? HumanEval on the embedded model: one attempt against up to five with reflection.

The examples in each docstring are the visible tests that drive the loop; the benchmark's own tests are hidden and
alone decide, in both arms. Everything runs as a user's task does: engine, sidecar, sandbox, judge.

    python -m benchmarks.loop [--problems 80] [--attempts 5] [-c generation.repetition_penalty=1.1] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.humaneval import as_task, problems, visible_examples
from engine.api_models import FINAL_STATES, Outcome, SessionCreate, SessionRecord
from engine.config import load_config
from engine.evaluation.metrics import Rate, wilson
from engine.home import socket_path
from rune_tui.client import EngineClient
from rune_tui.host import embedded_engine

POLL_S = 0.5


@dataclass(frozen=True)
class Arm:
    """One way to solve the problems, with what it came to."""

    name: str
    rate: Rate
    errors: int
    """Infrastructure failures: outside the rate."""
    attempts: int
    tokens: int
    seconds: float
    solved: tuple[str, ...]


async def run_arm(client: EngineClient, count: int, attempts: int, seed: int) -> Arm:
    """Solve the first `count` problems with up to `attempts` attempts each."""
    start = time.monotonic()
    tasks = [as_task(problem, attempts=attempts, seed=seed) for problem in problems(count)]
    queued = [await client.create_session(SessionCreate(task=task)) for task in tasks]
    done: list[SessionRecord] = []
    for number, session in enumerate(queued, 1):
        record = await finished(client, session.id)
        done.append(record)
        elapsed = time.monotonic() - start
        left = elapsed / number * (count - number)
        print(f"\r{attempts} attempt(s): {number}/{count}, {left:.0f} s left ", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    judged = [record for record in done if record.outcome is not Outcome.ERROR]
    solved = tuple(record.task.id for record in judged if record.outcome is Outcome.VERIFIED)
    return Arm(
        name="one attempt" if attempts == 1 else f"up to {attempts}",
        rate=wilson(len(solved), len(judged)),
        errors=len(done) - len(judged),
        attempts=sum(record.attempts for record in done),
        tokens=sum(record.tokens for record in done),
        seconds=time.monotonic() - start,
        solved=solved,
    )


async def finished(client: EngineClient, session_id: str) -> SessionRecord:
    """The session once it ended."""
    while True:
        record = await client.session(session_id)
        if record.state in FINAL_STATES:
            return record
        await asyncio.sleep(POLL_S)


async def measure(count: int, attempts: int, seed: int, overrides: list[str]) -> tuple[Arm, Arm]:
    """Both arms on one engine, in a home of their own."""
    config = load_config(Path("no user configuration"), ["pipeline.sessions_at_once=4", *overrides])
    with tempfile.TemporaryDirectory(prefix="rune-loop-") as directory:
        home = Path(directory)
        async with embedded_engine(config, home), EngineClient(socket_path(home)) as client:
            return await run_arm(client, count, 1, seed), await run_arm(client, count, attempts, seed)


def table(arms: tuple[Arm, Arm]) -> str:
    """The arms as README quotes them."""
    rows = [
        "| arm | solved, 95 % Wilson interval | errors | attempts | tokens | seconds |",
        "|---|---|---|---|---|---|",
    ]
    rows += [
        f"| {arm.name} | {arm.rate} | {arm.errors} | {arm.attempts} | {arm.tokens} | {arm.seconds:.0f} |"
        for arm in arms
    ]
    return "\n".join(rows)


def main() -> int:
    """Exit status 0 when the loop solved more than one attempt did, with no infrastructure error."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--problems", type=int, default=80)
    parser.add_argument("--attempts", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-c", dest="config", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    arms = asyncio.run(measure(options.problems, options.attempts, options.seed, options.config))
    with_examples = sum(bool(visible_examples(problem)) for problem in problems(options.problems))
    if options.json:
        print(json.dumps({"problems_with_visible_examples": with_examples, "arms": [arm_json(arm) for arm in arms]}))
    else:
        print(f"HumanEval, first {options.problems} problems; {with_examples} have usable visible examples\n")
        print(table(arms))
        for arm in arms:
            print(f"\n{arm.name}: {', '.join(arm.solved)}")
    one, loop = arms
    return 0 if loop.rate.passed > one.rate.passed and not (one.errors or loop.errors) else 1


def arm_json(arm: Arm) -> dict[str, object]:
    """The arm as plain JSON."""
    rate = {"passed": arm.rate.passed, "total": arm.rate.total, "low": arm.rate.low, "high": arm.rate.high}
    return {**vars(arm), "rate": rate}


if __name__ == "__main__":
    sys.exit(main())
