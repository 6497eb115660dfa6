"""Does it learn? The proof, with its negative controls, from one command.

    python -m benchmarks.learn --home DIR [--backend llamacpp|vllm] [--seeds 3] [--quick] [--json]

Two private APIs that no model has seen: `runekit` (lists) and `inkwell` (strings). Adapters are trained on
compositions of some of their calls, recorded by digest, and only then is the seed drawn that the hidden inputs of the
deciding tasks come from. What is scored is the published adapter on the serving engine. Nothing is measured or trained
twice in one home: interrupted, the same command goes on where it was.

    the base model's answers to ordinary requests, and some tasks of the other API: not learned, the model is kept there
    train: runekit with each seed, inkwell, runekit with its answers shuffled ─► digests recorded ─► seed drawn
    derive: a random adapter of the same norm, merges by each method, the factor-wise `linear` of PEFT, a random parent
    score: every condition on every probe ─► improve on failures, score again ─► table

Exit status 0 when every line of the bar is met, 1 when one is not; the table stands either way.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.learn_derive import derived
from benchmarks.learn_lab import Lab
from benchmarks.learn_table import Condition, Row, bar, render
from engine.api_evolution import MergeMethod
from engine.api_learning import BASE, Split, SuiteTask
from engine.config import load_config
from engine.home import socket_path
from rune_tui.client import EngineClient
from rune_tui.host import embedded_engine

PRESET = "small"
SYSTEM = "closed"
SHORT = 96
"""Tokens of an answer that is right have about 40; a base model that knows nothing would talk on to any limit."""
KEPT = 60
"""Rows of the other domain beside 250 of an adapter's own."""
DataRow = dict[str, Any]
"""A line of a training file."""
IN, DEEPER, PARAPHRASE = "in", "deeper", "paraphrase"


@dataclass(frozen=True)
class Probe:
    """A column of the table."""

    name: str
    suite: str
    groups: tuple[str, ...]
    limit: int
    max_tokens: int | None = None
    open_book: bool = False


PROBES = (
    Probe(IN, "runekit", (IN,), 100, SHORT),
    Probe(DEEPER, "runekit", (DEEPER,), 60, SHORT),
    Probe(PARAPHRASE, "runekit", (PARAPHRASE,), 60, SHORT),
    Probe("other", "inkwell", (IN,), 60, SHORT),
    Probe("general", "general", (), 40),
    Probe("humaneval", "humaneval", (), 40),
)
OPEN_BOOK = Probe(IN, "runekit", (IN,), 60, SHORT, open_book=True)


def rows_of(tasks: Sequence[SuiteTask], system: str) -> list[DataRow]:
    """Training rows: what the evaluator asks, and the reference as the answer."""
    return [
        {"prompt": task.prompt, "completion": f"```python\n{task.reference}\n```", "system": system, "task": task.id}
        for task in tasks
        if task.reference is not None
    ]


def kept(rows: Sequence[DataRow]) -> list[DataRow]:
    """Some of another domain's rows, from which nothing is learned: the base model is kept as it is on them."""
    return [{**rows[number * len(rows) // KEPT], "keep": True} for number in range(KEPT)]


def shuffled(rows: Sequence[DataRow]) -> list[DataRow]:
    """The same prompts and the same answers, but none with its own."""
    half = len(rows) // 2
    answers = [row["completion"] for row in (*rows[half:], *rows[:half])]
    return [{**row, "completion": answer} for row, answer in zip(rows, answers, strict=True)]


async def train_all(lab: Lab, seeds: int) -> None:
    """The adapters that the others are made from. Each is held to the base model elsewhere."""
    lists = rows_of(await lab.tasks("runekit", Split.TRAIN, IN), lab.system)
    texts = rows_of(await lab.tasks("inkwell", Split.TRAIN, IN), lab.system)
    everyday = await lab.rehearsal("general")
    off_lists, off_texts = [*kept(texts), *everyday], [*kept(lists), *everyday]
    for seed in range(1, seeds + 1):
        await lab.train(f"runekit-{seed}", "runekit", [*lists, *off_lists], seed)
    await lab.train("inkwell-1", "inkwell", [*texts, *off_texts], 1)
    await lab.train("shuffled-1", "runekit", [*shuffled(lists), *off_lists], 1)


def conditions(seeds: int, methods: Sequence[MergeMethod]) -> Iterator[Condition]:
    """The rows of the table, before the loop improves on them."""
    yield Condition("base", BASE, tuple(probe.name for probe in PROBES))
    yield Condition("random of equal norm", "random-1", (IN,))
    yield Condition("shuffled labels", "shuffled-1", (IN,))
    yield Condition("other domain", "inkwell-1", (IN, "other", "general", "humaneval"))
    for seed in range(1, seeds + 1):
        everything = tuple(probe.name for probe in PROBES)
        yield Condition(f"adapter, seed {seed}", f"runekit-{seed}", everything if seed == 1 else everything[:3])
    for method in methods:
        yield Condition(f"merged: {method}", f"merged-{method}", (IN, "other"))
    yield Condition("merged: PEFT linear", "peft-linear", (IN, "other"))
    yield Condition("merged with a random parent", "merged-random", (IN, "other"))


async def score(lab: Lab, condition: Condition) -> Row:
    """One row."""
    chosen = [probe for probe in PROBES if probe.name in condition.probes]
    return Row(condition, {probe.name: await lab.evaluate(condition.adapter, probe) for probe in chosen})


async def improve(lab: Lab) -> Condition:
    """Learn from what the first adapter fails at: compositions of three, solved by the explorer."""
    adapter = await lab.improve("runekit", rounds=2)
    return Condition("best of loop", adapter or "runekit-1", tuple(probe.name for probe in PROBES))


async def prove(lab: Lab, seeds: int, *, quick: bool) -> list[Row]:
    """All stages in order; each finds done what an earlier run did."""
    methods = (MergeMethod.CAT, MergeMethod.TIES) if quick else tuple(MergeMethod)
    await train_all(lab, seeds)
    await derived(lab, methods)
    lab.reveal(secrets.randbelow(2**31))
    rows = [await score(lab, condition) for condition in conditions(seeds, methods)]
    book = Condition("base, documentation in the prompt", BASE, (IN,))
    rows.insert(1, Row(book, {IN: await lab.evaluate(BASE, OPEN_BOOK)}))
    if not quick:
        rows.append(await score(lab, await improve(lab)))
    return rows


async def run(options: argparse.Namespace) -> list[Row]:
    """On an engine of this process, in the given home."""
    overrides = [f"inference.backend={options.backend}", "inference.parallel=8", "pipeline.sessions_at_once=8"]
    config = load_config(options.home / "config.toml", [*overrides, *options.config])
    async with embedded_engine(config, options.home), EngineClient(socket_path(options.home)) as client:
        return await prove(Lab(client, options.home, PRESET), options.seeds, quick=options.quick)


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--home", type=Path, required=True, help="kept: what was trained and measured is not done again"
    )
    parser.add_argument("--backend", default="llamacpp", choices=["llamacpp", "vllm"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="two merges, no improvement: about half the time")
    parser.add_argument("-c", dest="config", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = asyncio.run(run(options))
    verdicts = bar(rows)
    print(json.dumps([row.as_json() for row in rows]) if options.json else render(rows, verdicts))
    return 0 if all(verdict.met for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
