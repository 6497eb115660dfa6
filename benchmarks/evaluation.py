"""How fast is an evaluation? Answers asked for at once against one after another, on the embedded model.

Both arms measure the same tasks with the same seeds, each on an engine and in a home of its own, so that neither finds
what the other measured; the model is loaded before the clock starts. Rounds alternate which arm comes first.

    python -m benchmarks.evaluation [--suite humaneval] [--tasks 24] [--rounds 2] [-c inference.parallel=4] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from engine.api_learning import EvaluateRequest, EvaluationReport, Operation
from engine.api_models import FINAL_STATES, RunState
from engine.config import load_config
from engine.home import socket_path
from rune_tui.client import EngineClient
from rune_tui.client_learning import LearningClient
from rune_tui.host import embedded_engine

POLL_S = 0.05
WARM_SEED = 1
"""Of the evaluation that loads the model: its one sample is none of those that are timed."""


@dataclass(frozen=True)
class Measured:
    """One arm of one round."""

    name: str
    at_once: int
    samples: int
    passed: int
    infrastructure: int
    tokens: int
    seconds: float

    @property
    def samples_per_second(self) -> float:
        """Asked, answered, judged and stored."""
        return self.samples / self.seconds


async def run_arm(name: str, at_once: int, request: EvaluateRequest, overrides: list[str]) -> Measured:
    """Measure once, in a new home."""
    config = load_config(Path("no user configuration"), [*overrides, f"evaluation.at_once={at_once}"])
    with tempfile.TemporaryDirectory(prefix="rune-evaluation-") as directory:
        home = Path(directory)
        async with embedded_engine(config, home), EngineClient(socket_path(home)) as client:
            learning = LearningClient(client)
            await finished(learning, request.model_copy(update={"seed": WARM_SEED, "limit": 1}))
            report = await finished(learning, request)
    samples, passed = len(report.sampled), report.pass_at_1.passed
    took = at_once or config.inference.parallel
    return Measured(name, took, samples, passed, report.infrastructure, report.tokens, report.seconds)


async def finished(learning: LearningClient, request: EvaluateRequest) -> EvaluationReport:
    """The report, once it is there."""
    operation: Operation = await learning.evaluate(request)
    while operation.state not in FINAL_STATES:
        await asyncio.sleep(POLL_S)
        operation = await learning.operation(operation.id)
    if operation.state is not RunState.SUCCEEDED:
        raise RuntimeError(f"{operation.id} is {operation.state.value}: {operation.reason}")
    return EvaluationReport.model_validate(operation.result)


async def measure(request: EvaluateRequest, rounds: int, overrides: list[str]) -> list[Measured]:
    """Every round of both arms."""
    arms = (("one after another", 1), ("at once", 0))
    found: list[Measured] = []
    for number in range(rounds):
        for name, at_once in arms if number % 2 == 0 else reversed(arms):
            found.append(await run_arm(name, at_once, request, overrides))
            print(f"round {number + 1}: {name}: {found[-1].seconds:.1f} s", file=sys.stderr)
    return found


def rate_of(found: Iterable[Measured], name: str) -> float:
    """Median samples a second of that arm."""
    return median(arm.samples_per_second for arm in found if arm.name == name)


def table(found: list[Measured]) -> str:
    """The arms as README quotes them."""
    rows = ["| arm | under way together | samples/s, median | seconds of each round |", "|---|---|---|---|"]
    for name in ("one after another", "at once"):
        arms = [arm for arm in found if arm.name == name]
        seconds = ", ".join(f"{arm.seconds:.1f}" for arm in arms)
        rows.append(f"| {name} | {arms[0].at_once} | {rate_of(found, name):.2f} | {seconds} |")
    return "\n".join(rows)


def main() -> int:
    """Exit status 0 when at once was faster, with no infrastructure error."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--suite", default="humaneval")
    parser.add_argument("--tasks", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("-c", dest="config", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    request = EvaluateRequest(suite=options.suite, limit=options.tasks)
    found = asyncio.run(measure(request, options.rounds, options.config))
    factor = rate_of(found, "at once") / rate_of(found, "one after another")
    if options.json:
        print(json.dumps({"factor": factor, "arms": [asdict(arm) for arm in found]}))
    else:
        print(table(found))
        print(f"\nat once is {factor:.2f} times as fast")
    return 0 if factor > 1 and not any(arm.infrastructure for arm in found) else 1


if __name__ == "__main__":
    sys.exit(main())
