"""Does it learn? The proof, with its negative controls, from one command.

    python -m benchmarks.learn --home DIR [--backend llamacpp|vllm] [--seeds 3] [--quick] [--json]

Two private APIs that no model has seen: `runekit` (lists) and `inkwell` (strings). Adapters are trained on
compositions of some of their calls, recorded by digest, and only then is the seed drawn that the hidden inputs of the
deciding tasks come from. What is scored is the published adapter on the serving engine. Nothing is measured or trained
twice in one home: interrupted, the same command goes on where it was.

    the base model's answers to ordinary requests, and some tasks of the other API: not learned, the model is kept there
    train: runekit with each seed, inkwell, runekit with its answers shuffled, runekit for few steps
           ─► digests recorded ─► seed drawn
    derive: a random adapter of the same norm, an empty one, merges by each method, the factor-wise `linear` of PEFT,
            a random parent
    score: every condition on every probe ─► evidence for the tier `domain` ─► improve on failures, score again,
           evidence again ─► what some of them do to plain text ─► tables and the bar

What is done is in `learn_plan`, so that a small plan runs the same code in a test. Exit status 0 when every line of the
bar is met, 1 when one is not; the tables stand either way.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.learn_bar import bar
from benchmarks.learn_derive import derived
from benchmarks.learn_evidence import drift, made_by
from benchmarks.learn_lab import Lab
from benchmarks.learn_plan import FULL, SHORT_ID, Plan, conditions, probes_of, quick
from benchmarks.learn_results import IN, Condition, Results, Role, Row, best_merge
from benchmarks.learn_table import render
from engine.api_evolution import Evidence, ImproveReport, TextDrift
from engine.api_learning import BASE, Split, SuiteTask
from engine.config import load_config
from engine.home import socket_path
from rune_tui.client import EngineClient
from rune_tui.host import embedded_engine

DataRow = dict[str, Any]
"""A line of a training file."""


def rows_of(tasks: Sequence[SuiteTask], system: str) -> list[DataRow]:
    """Training rows: what the evaluator asks, and the reference as the answer."""
    return [
        {"prompt": task.prompt, "completion": f"```python\n{task.reference}\n```", "system": system, "task": task.id}
        for task in tasks
        if task.reference is not None
    ]


def kept(rows: Sequence[DataRow], count: int) -> list[DataRow]:
    """Some of another domain's rows, from which nothing is learned: the base model is kept as it is on them."""
    return [{**rows[number * len(rows) // count], "keep": True} for number in range(count)]


def shuffled(rows: Sequence[DataRow]) -> list[DataRow]:
    """The same prompts and the same answers, but none with its own."""
    half = len(rows) // 2
    answers = [row["completion"] for row in (*rows[half:], *rows[:half])]
    return [{**row, "completion": answer} for row, answer in zip(rows, answers, strict=True)]


async def train_all(lab: Lab, plan: Plan) -> None:
    """The adapters that the others are made from. Each is held to the base model elsewhere."""
    ours = rows_of(await lab.tasks(plan.main, Split.TRAIN, IN), lab.system)
    others = rows_of(await lab.tasks(plan.other, Split.TRAIN, IN), lab.system)
    everyday = await lab.rehearsal(plan.rehearsed) if plan.rehearsed else []
    off_ours, off_others = [*kept(others, plan.kept), *everyday], [*kept(ours, plan.kept), *everyday]
    for seed in range(1, plan.seeds + 1):
        await lab.train(f"{plan.main}-{seed}", plan.main, [*ours, *off_ours], seed)
    await lab.train(plan.parents[1], plan.other, [*others, *off_others], 1)
    await lab.train("shuffled-1", plan.main, [*shuffled(ours), *off_ours], 1)
    if plan.short_steps:
        await lab.train(SHORT_ID, plan.main, [*ours, *off_ours], 1, plan.short_steps)


async def score(lab: Lab, plan: Plan, condition: Condition) -> Row:
    """One row."""
    chosen = probes_of(plan, condition.probes)
    return Row(condition, {probe.name: await lab.evaluate(condition.adapter, probe) for probe in chosen})


async def score_all(lab: Lab, plan: Plan) -> list[Row]:
    """The table, without the loop."""
    rows = [await score(lab, plan, condition) for condition in conditions(plan)]
    book = Condition("base, documentation in the prompt", BASE, (IN,), Role.BOOK)
    rows.insert(1, Row(book, {IN: await lab.evaluate(BASE, plan.book)}))
    return rows


async def improve(lab: Lab, plan: Plan) -> tuple[ImproveReport, Row]:
    """Learn from what the first adapter fails at: compositions of three, solved by the explorer."""
    report = await lab.improve(plan.main, plan.rounds, (plan.rehearsed, plan.other) if plan.rehearsed else ())
    best = Condition("best of loop", made_by(report), plan.columns, Role.LOOP)
    return report, await score(lab, plan, best)


async def drifts(lab: Lab, results: Results) -> dict[str, TextDrift]:
    """What the first adapter, a random one, the best merge and the loop's last do to plain text."""
    rows = [results.first, *results.of(Role.RANDOM), best_merge(results)[0], *results.of(Role.LOOP)]
    named = [row.condition for row in rows if row.condition.adapter != BASE]
    return {one.name: await drift(lab, one.adapter) for one in named}


async def prove(lab: Lab, plan: Plan) -> Results:
    """All stages in order; each finds done what an earlier run did."""
    await train_all(lab, plan)
    await derived(lab, plan)
    lab.reveal(secrets.randbelow(2**31))
    rows = await score_all(lab, plan)
    evidence: dict[str, Evidence] = {"first": await lab.evidence(plan.first, plan.main, plan.anchors)}
    if plan.short_steps:
        evidence["short"] = await lab.evidence(SHORT_ID, plan.main, plan.anchors)
    loop = None
    if plan.rounds:
        loop, best = await improve(lab, plan)
        rows.append(best)
        if best.condition.adapter != BASE:
            evidence["after"] = await lab.evidence(best.condition.adapter, plan.main, plan.anchors)
    results = Results(plan.columns, tuple(rows), evidence, {}, loop)
    found = await drifts(lab, results) if plan.drift else {}
    return replace(results, drift=found, seconds=lab.notes.seconds)


async def run(options: argparse.Namespace, plan: Plan) -> Results:
    """On an engine of this process, in the given home."""
    home = options.home.absolute()
    overrides = [f"inference.backend={options.backend}", "inference.parallel=8", "pipeline.sessions_at_once=8"]
    config = load_config(home / "config.toml", [*overrides, *options.config])
    async with embedded_engine(config, home), EngineClient(socket_path(home)) as client:
        return await prove(Lab(client, home, config, plan.preset), plan)


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--home", type=Path, required=True, help="kept: what was trained and measured is not done again"
    )
    parser.add_argument("--backend", default="llamacpp", choices=["llamacpp", "vllm"])
    parser.add_argument("--seeds", type=int, default=FULL.seeds)
    parser.add_argument("--quick", action="store_true", help="two merges, no improvement: about half the time")
    parser.add_argument("-c", dest="config", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    plan = replace(quick(FULL) if options.quick else FULL, seeds=options.seeds)
    started = time.monotonic()
    results = asyncio.run(run(options, plan))
    wall, lines = time.monotonic() - started, bar(results)
    if options.json:
        bar_lines = [{"text": line.text, "met": line.met} for line in lines]
        print(json.dumps({**results.as_json(), "bar": bar_lines, "wall_seconds": wall}))
    else:
        print(render(results, lines, wall))
    return 0 if all(line.met for line in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
