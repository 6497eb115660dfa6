"""`rune-tui promote|rollback|prune|undo|redo|history|alias` against the real engine over its socket."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.engine_process import api
from support.evidence_house import evidence, plant

from engine.core import Engine
from engine.errors import ExitCode
from registry.models import NewAdapter, Source
from registry.samples import write_sample
from rune_tui.cli import run


async def fill(engine: Engine, folder: Path) -> None:
    """Two adapters; for the first there is evidence."""
    for seed, name in enumerate(("sort-v1", "sort-v2")):
        directory = await asyncio.to_thread(write_sample, folder / name, seed)
        await engine.registry.publish(directory, NewAdapter(id=name, task_type="sort", source=Source.QLORA))
    await plant(engine, evidence("sort-v1", (await engine.registry.get("sort-v1")).digest))


@pytest.fixture
def home_served(home: Path, tmp_path: Path) -> Iterator[Path]:
    """A real engine in a thread of its own: the commands have event loops of theirs."""
    ready, done = threading.Event(), threading.Event()

    async def serve() -> None:
        async with api(home) as (engine, _):
            await fill(engine, tmp_path)
            ready.set()
            await asyncio.to_thread(done.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert ready.wait(150)
    yield home
    done.set()
    thread.join(50)


def said(home: Path, capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = run(["--home", str(home), *arguments])
    out, err = capfd.readouterr()
    return code, out, err


def test_a63_the_story_of_two_champions(home_served: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def tell(*arguments: str) -> tuple[int, str, str]:
        return said(home_served, capfd, *arguments)

    code, out, err = tell("promote", "sort-v1", "--dry-run")
    assert (code, err) == (0, "")
    assert "Evidence: proven" in out and "Nothing speaks against it." in out
    code, out, err = tell("promote", "sort-v1")
    assert (code, out) == (0, "sort-v1 is at domain and the champion of sort\n")
    assert err.index("e-value") < err.index("Nothing speaks"), "the evidence is shown first"

    code, out, err = tell("promote", "sort-v2")
    assert (code, out) == (ExitCode.USAGE, "")
    assert "Nothing was measured for sort-v2" in err and "Force it" in err
    code, out, _ = tell("promote", "sort-v2", "--to", "project", "--force", "--json")
    assert (code, json.loads(out)["tier"]) == (0, "project")
    assert tell("alias", "list")[1].split() == [
        *("ALIAS", "ADAPTER", "sort@champion", "sort-v2", "sort@previous", "sort-v1")
    ]
    assert tell("rollback", "sort")[1] == "sort: champion sort-v1, previous sort-v2\n"

    history = tell("history", "--limit", "2")[1].splitlines()
    assert "sort@champion rolled back: sort@champion sort-v2 to sort-v1" in history[1]
    assert history[2].endswith("forced")
    assert tell("undo")[1] == (
        "undone change 5: sort@champion rolled back: sort@champion sort-v2 to sort-v1, "
        "sort@previous sort-v1 to sort-v2\n"
    )
    code, _, err = tell("undo", "--expected", "5")
    assert code == ExitCode.USAGE and "look again" in err
    assert tell("redo")[1].startswith("redone change 5")
    assert json.loads(tell("alias", "list", "--json")[1])["sort@champion"] == "sort-v1"


def test_a_name_that_moves_stands_wherever_an_adapter_is_named(
    home_served: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def tell(*arguments: str) -> tuple[int, str, str]:
        return said(home_served, capfd, *arguments)

    tell("alias", "set", "sort@challenger", "sort-v2")
    assert json.loads(tell("adapters", "show", "sort@challenger", "--json")[1])["id"] == "sort-v2"
    tell("alias", "set", "sort@challenger", "sort-v1")
    assert json.loads(tell("promote", "sort@challenger", "--dry-run", "--json")[1])["adapter_id"] == "sort-v1"
    for arguments in (("adapters", "show"), ("prune",), ("promote",), ("evidence", "--suite", "general")):
        code, out, err = tell(*arguments, "sort@nobody")
        assert (code, out) == (ExitCode.USAGE, "")
        assert "No adapter is named 'sort@nobody'" in err and "alias list" in err


def test_prune_and_alias_set(home_served: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def tell(*arguments: str) -> tuple[int, str, str]:
        return said(home_served, capfd, *arguments)

    assert "sort@challenger  sort-v1" in tell("alias", "set", "sort@challenger", "sort-v1")[1]
    assert "sort@challenger  sort-v2" in tell("alias", "set", "sort@challenger", "sort-v2")[1]
    code, _, err = tell("prune", "sort-v2")
    assert code == ExitCode.USAGE and "It is sort@challenger." in err
    assert tell("alias", "remove", "sort@challenger")[2] == "no aliases\n"
    assert json.loads(tell("prune", "sort-v2", "--json")[1])["is_archived"] is True
    code, _, err = tell("prune", "sort-v1")
    assert code == ExitCode.USAGE and "last adapter in use" in err
    assert tell("prune", "sort-v1", "--force")[0] == 0
    for arguments in (("prune", "../x"), ("promote", "nobody"), ("alias", "set", "x", "sort-v1"), ("rollback", "no")):
        code, out, err = tell(*arguments)
        assert (code, out) == (ExitCode.USAGE, "")
        assert err.count("\n") == 1
