"""The proof of `benchmarks/learn.py` on two small private APIs: a plan, a home, and an engine to run it in."""

from __future__ import annotations

import asyncio
from itertools import combinations
from pathlib import Path

from support.kit import KIT, SPELL, write_lines

from benchmarks.learn import prove
from benchmarks.learn_lab import Lab
from benchmarks.learn_plan import DEEPER, IN, OTHER, Plan, Probe
from benchmarks.learn_results import Results
from engine.api_evolution import MergeMethod
from engine.api_learning import SuiteAdd
from engine.config import load_config
from engine.errors import ConflictError
from engine.home import socket_path
from rune_tui.client import EngineClient

JOINTS = (", then ", ", and then ")
APIS = (
    KIT.only(
        *("zorb", "plim", "toma", "gax", "fep"),
        deeper=tuple(combinations(("zorb", "fep", "gax", "plim", "toma"), 3))[:8],
        joints=JOINTS,
    ),
    SPELL.only(*("brin", "clop", "hust", "mott", "quen"), deeper=(), joints=JOINTS),
)
"""Five functions each: a name takes about ninety sightings to be learned, and a sighting takes its time."""
SMALL = Plan(
    main="kit",
    other="spell",
    probes=(
        Probe(IN, "kit", (IN,), 14),
        Probe(DEEPER, "kit", (DEEPER,), 8),
        Probe(OTHER, "spell", (IN,), 14),
        Probe("general", "general", (), 6),
    ),
    book=Probe(IN, "kit", (IN,), 14, open_book=True),
    preset="tiny",
    seeds=1,
    methods=(MergeMethod.CAT,),
    draws=1,
    kept=8,
    rehearsed=None,
    rounds=0,
    drift=False,
    anchors=("spell",),
)


async def add_suites(lab: Lab, directory: Path) -> None:
    """Both APIs' suites, unless they are there."""
    for api in APIS:
        file = write_lines(directory / f"{api.name}.jsonl", api.tasks())
        try:
            await lab.learning.add_suite(SuiteAdd(file=str(file), name=api.name))
        except ConflictError:
            continue


def prove_here(home: Path, directory: Path, plan: Plan = SMALL) -> Results:
    """The whole proof on the engine that runs in this home."""
    config = load_config(home / "config.toml", [])

    async def run() -> Results:
        async with EngineClient(socket_path(home)) as client:
            lab = Lab(client, home, config, plan.preset)
            await add_suites(lab, directory)
            return await prove(lab, plan)

    return asyncio.run(run())
