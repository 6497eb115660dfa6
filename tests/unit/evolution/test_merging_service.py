"""Merging as the engine does it: a child process, its end in every case, and what is published (A61, A62)."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from support.registry_house import House, open_house

from engine.api_evolution import MergeMethod, MergeReport, MergeRequest
from engine.api_learning import Operation, OperationKind
from engine.api_models import RunState
from engine.config import Config, load_config
from engine.errors import InputError
from engine.evolution.errands import tell_nobody
from engine.evolution.merging.handler import MergeHandler
from engine.evolution.merging.service import Merger
from engine.evolution.merging.spec import Learning, MergeRefusedError, read_spec, read_word
from engine.operations import Progress
from registry.errors import AdapterAlreadyExists, AdapterArchived, AdapterNotFound
from registry.models import LoadableAdapter
from registry.safeload import AdapterLimits, load_tensors
from registry.samples import write_sample

OTHER_BASE = "samples/other"


@dataclass
class Works:
    house: House
    config: Config
    merger: Merger
    home: Path

    @property
    def handler(self) -> MergeHandler:
        return MergeHandler(self.house.registry, self.merger, no_learning)

    async def parents(self, *names: str) -> list[LoadableAdapter]:
        for seed, name in enumerate(names):
            await self.house.publish(name, seed=seed)
        return [await self.house.registry.resolve_for_load(name) for name in names]

    def left(self) -> list[str]:
        """What is on the disk after the work."""
        places = self.home / "merging"
        return sorted(os.listdir(places)) if places.exists() else []


async def no_learning(request: MergeRequest, parents: Sequence[LoadableAdapter], progress: Progress) -> Learning:
    raise AssertionError("nothing is learned here")


@asynccontextmanager
async def works(home: Path, *overrides: str) -> AsyncGenerator[Works]:
    config = await asyncio.to_thread(load_config, None, overrides)
    await asyncio.to_thread(home.mkdir, parents=True)
    async with open_house(home) as house:
        yield Works(house, config, Merger(config, home), home)


def operation(**request: object) -> Operation:
    return Operation(
        id="merge-1",
        kind=OperationKind.MERGE,
        state=RunState.RUNNING,
        request=MergeRequest.model_validate(request).model_dump(mode="json"),
        created_at="2026-11-22T00:00:00Z",
    )


async def test_a_merge_is_published_with_its_lineage_and_found_again(home: Path) -> None:
    """A61: a loadable plain adapter, one generation after its parents; done again after a crash, it is the same."""
    async with works(home) as w:
        await w.parents("a", "b")
        await w.house.publish("c", seed=3, parent_ids=("a",))
        told: list[tuple[int, int]] = []

        async def progress(done: int, total: int, note: str = "") -> None:
            told.append((done, total))

        request = operation(adapters=("a", "c"), adapter_id="child", method="ties", rank=3, seed=5)
        report = await w.handler.run(request, progress)
        child = await w.house.registry.get("child")
        assert isinstance(report, MergeReport)
        assert (child.source, child.parent_ids, child.generation, child.task_type) == (
            "evolution",
            ("a", "c"),
            2,
            "sort",
        )
        assert (child.rank, child.alpha, child.digest) == (3, 3.0, report.digest)
        assert report.rank == 3 and 0 < report.retained_energy <= 1 and report.peak_mib > 0
        assert set(report.parent_cosines) == {"a", "c"} and told[-1] == (4, 4)
        again = await w.handler.run(request, tell_nobody)
        assert again.digest == report.digest and w.left() == []
        named = await w.handler.run(operation(adapters=("a", "b"), task_type="both"), tell_nobody)
        assert named.adapter_id == "merged-merge-1"
        assert (await w.house.registry.get(named.adapter_id)).task_type == "both"


async def test_an_id_of_another_adapter_is_not_taken(home: Path) -> None:
    async with works(home) as w:
        await w.parents("a", "b", "mine")
        with pytest.raises(AdapterAlreadyExists):
            await w.handler.run(operation(adapters=("a", "b"), adapter_id="mine"), tell_nobody)
        await w.handler.run(operation(adapters=("a", "b"), adapter_id="child"), tell_nobody)
        with pytest.raises(AdapterAlreadyExists):  # the same parents, and not the same adapter
            await w.handler.run(operation(adapters=("a", "b"), adapter_id="child", weights=(3, 1)), tell_nobody)


async def test_what_cannot_be_merged_is_refused_and_leaves_nothing(home: Path) -> None:
    """A62: the reason names the adapters."""
    async with works(home) as w:
        await w.parents("a", "b")
        other = await asyncio.to_thread(write_sample, home / "other", 9, base_model_id=OTHER_BASE)
        await w.house.registry.import_directory(str(other), "foreign", task_type="sort")
        with pytest.raises(MergeRefusedError, match=f"a is for samples/tiny and foreign for {OTHER_BASE}"):
            await w.handler.run(operation(adapters=("a", "foreign")), tell_nobody)
        with pytest.raises(InputError, match="a is there twice"):
            await w.handler.run(operation(adapters=("a", "b", "a")), tell_nobody)
        with pytest.raises(InputError, match="1 weights for 2"):
            await w.handler.run(operation(adapters=("a", "b"), weights=(1,)), tell_nobody)
        with pytest.raises(MergeRefusedError, match="rank 400"):  # said by the child
            await w.handler.run(operation(adapters=("a", "b"), rank=400), tell_nobody)
        with pytest.raises(AdapterNotFound):
            await w.handler.run(operation(adapters=("a", "nobody")), tell_nobody)
        await w.house.registry.archive("b")
        with pytest.raises(AdapterArchived):
            await w.handler.run(operation(adapters=("a", "b")), tell_nobody)
        assert w.left() == []
        assert {adapter.id for adapter in (await w.house.registry.list_all()).items} == {"a", "foreign"}


async def test_a_cancelled_merge_ends_its_process_and_leaves_nothing(home: Path) -> None:
    """Cancelled as soon as the child speaks; the next merge finds the place free."""
    async with works(home) as w:
        await w.parents("a", "b")
        spoke = asyncio.Event()

        async def progress(done: int, total: int, note: str = "") -> None:
            spoke.set()
            await asyncio.Event().wait()  # for ever: the child's word is being dealt with

        task = asyncio.create_task(w.handler.run(operation(adapters=("a", "b")), progress))
        await spoke.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert w.left() == []
        assert not await asyncio.to_thread(mentioned, str(home))
        assert (await w.house.registry.count()) == 2
        await w.handler.run(operation(adapters=("a", "b")), tell_nobody)


def mentioned(word: str) -> list[str]:
    """Living processes with the word in their command line."""
    found: list[str] = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            command = Path("/proc", name, "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if word in command and int(name) != os.getpid():
            found.append(command)
    return found


async def test_a_child_that_dies_or_cannot_read_is_said(home: Path) -> None:
    async with works(home) as w:
        parents = await w.parents("a", "b")
        request = MergeRequest(adapters=("a", "b"))
        damaged = [parents[0], LoadableAdapter(parents[1].adapter, home / "gone", None)]
        with pytest.raises(MergeRefusedError, match=r"b: adapter_config\.json: cannot be opened"):
            async with w.merger.merge(request, damaged):
                pass
        for program, reason in (
            (("/bin/sh", "-c", "echo broken >&2; exit 7"), "ended with status 7; its log ends: broken"),
            (("/bin/sh", "-c", "echo surprise"), "said something unknown"),
            (("/bin/sh", "-c", "kill -9 $$"), "was ended by SIGKILL"),
        ):
            with pytest.raises(MergeRefusedError, match=reason):
                async with Merger(w.config, home, program).merge(request, parents):
                    pass
        assert w.left() == []


async def test_cosines_and_the_random_control_come_from_children_too(home: Path) -> None:
    """A64: what evolution's `Breeding` asks for; pairs of different bases are no pairs."""
    async with works(home) as w:
        parents = await w.parents("a", "b")
        other = await asyncio.to_thread(write_sample, home / "other", 9, base_model_id=OTHER_BASE)
        await w.house.registry.import_directory(str(other), "foreign", task_type="sort")
        foreign = await w.house.registry.resolve_for_load("foreign")
        cosines = await w.merger.cosines([*parents, foreign])
        assert set(cosines) == {frozenset({"a", "b"})}
        assert abs(cosines[frozenset({"a", "b"})]) < 0.3
        async with w.merger.random_like(parents[0], 7) as made:
            tensors = await asyncio.to_thread(read, made.directory)
            assert made.gguf is None and "samples/tiny" in str(made.facts["no_gguf"])
        assert not await asyncio.to_thread(made.directory.exists)
        own = await asyncio.to_thread(read, parents[0].directory)
        assert set(own) == set(tensors) and norm(own, 2.0) == pytest.approx(norm(tensors, 1.0), rel=1e-3)


def read(directory: Path) -> dict[str, np.ndarray]:
    return load_tensors(directory / "adapter_model.safetensors", AdapterLimits(1 << 24, 512))


def norm(tensors: dict[str, np.ndarray], scale: float) -> float:
    """Of the first module's delta."""
    name = min(name for name in tensors if ".lora_A." in name)
    return float(np.linalg.norm(scale * tensors[name.replace("lora_A", "lora_B")] @ tensors[name]))


async def test_what_a_killed_engine_left_is_removed(home: Path) -> None:
    async with works(home) as w:
        await asyncio.to_thread((home / "merging" / "old").mkdir, parents=True)
        await w.merger.recover()
        assert w.left() == []


def test_specs_and_words_are_checked(tmp_path: Path) -> None:
    for raw in ("", "{}", json.dumps({"do": "merge"}), json.dumps({"do": "rm"})):
        (tmp_path / "spec.json").write_text(raw)
        with pytest.raises(MergeRefusedError, match="spec"):
            read_spec(tmp_path / "spec.json")
    with pytest.raises(MergeRefusedError, match="cannot be read"):
        read_spec(tmp_path / "absent.json")
    with pytest.raises(MergeRefusedError, match="unknown"):
        read_word(b'{"word": "surprise"}')


def test_every_method_of_the_request_is_one_of_the_rules() -> None:
    assert {method.value for method in MergeMethod} == {"ties", "dare", "dare-ties", "linear", "cat", "cat-learned"}
