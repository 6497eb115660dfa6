"""The proof's own stages, on a tiny model whose server says what it always says: made once, looked up ever after.

What every adapter scores here is what the base model scores, so this says nothing about learning:
`test_proof_model.py` does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from batch_process import rune
from support.proof_place import SMALL, prove_here
from support.tiny_base import make_tiny_base

from benchmarks.learn_bar import bar
from benchmarks.learn_plan import conditions
from benchmarks.learn_results import Results, Role
from benchmarks.learn_table import render
from engine.api_evolution import Verdict
from engine.api_learning import OperationKind
from engine.home import socket_path
from rune_tui.client import EngineClient
from rune_tui.client_learning import LearningClient

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SETTINGS = """
[model]
path = "{base}"
base_id = "tiny"
[inference]
backend = "scripted"
[evaluation]
bootstrap = 100
batch_tasks = 14
[presets.tiny]
method = "lora"
rank = 4
alpha = 8
max_steps = 3
batch_size = 4
max_tokens = 1000
held_out = 0.0
threads = 1
"""


@pytest.fixture
def place(home: Path, tmp_path: Path) -> Iterator[Path]:
    """A home with the tiny base model; its engine ends with the test."""
    home.mkdir(parents=True)
    (home / "config.toml").write_text(SETTINGS.format(base=make_tiny_base(tmp_path / "base")))
    yield home
    rune(home, "engine", "stop")


def work(home: Path) -> tuple[set[str], int]:
    """Ids of all training jobs, merges and evidence; how many evaluations really measured."""

    async def ask() -> tuple[set[str], int]:
        async with EngineClient(socket_path(home)) as client:
            learning = LearningClient(client)
            made = {job.id for job in await client.jobs(limit=500)}
            for kind in (OperationKind.MERGE, OperationKind.EVIDENCE):
                made |= {operation.id for operation in await learning.operations(kind=kind, limit=500)}
            evaluations = await learning.operations(kind=OperationKind.EVALUATE, limit=500)
        notes = [one.progress.note for one in evaluations if one.progress is not None]
        return made, sum(note != "measured before" for note in notes)

    return asyncio.run(ask())


def test_a_second_run_makes_and_measures_nothing(place: Path, tmp_path: Path) -> None:
    assert rune(place, "engine", "start").returncode == 0
    first = prove_here(place, tmp_path)
    done = work(place)
    assert rune(place, "engine", "stop").returncode == 0
    assert rune(place, "engine", "start").returncode == 0
    second = prove_here(place, tmp_path)
    assert work(place) == done
    assert keys(second) == keys(first)
    assert second.seconds == first.seconds and second.evidence == first.evidence
    check(first)


def keys(results: Results) -> list[str]:
    return [report.key for row in results.rows for report in row.reports.values()]


def check(results: Results) -> None:
    """Every stage has left its mark, and none that says a scripted server learned something."""
    assert {row.condition.adapter for row in results.rows} == {one.adapter for one in conditions(SMALL)}
    reports = [(row, report) for row in results.rows for report in row.reports.values()]
    assert all(report.digest_proven and not report.infrastructure for _, report in reports)
    assert all((report.adapter_digest is None) == (row.condition.adapter == "base") for row, report in reports)
    stages = {what.split()[0] for what in results.seconds}
    assert stages == {"train", "make", "merge", "score", "evidence"}
    assert results.evidence["first"].verdict is not Verdict.PROVEN
    lines = bar(results)
    assert any(line.text.startswith("adapter, seed 1: at least 90 %") and not line.met for line in lines)
    assert all(line.met for line in lines if line.text.startswith("control fails: zero"))
    assert all(row.condition.name in render(results, lines, 1.0) for row in results.rows)
    assert not results.of(Role.LOOP)
