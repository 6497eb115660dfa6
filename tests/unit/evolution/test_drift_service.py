"""Perplexity of a real child on a tiny model; what is said where it cannot be measured; that it is measured once."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from support.evolution_house import tell_nobody
from support.merging_house import Pairs, deltas, random_pairs, write_pairs
from support.tiny_base import make_tiny_base
from support.training_house import SETS, configured

from engine.config import Config
from engine.evolution.drift.service import PROGRAM, Drift, available_mib, need_mib
from engine.evolution.drift.spec import DriftSpec, Figures, UnmeasuredError, read_spec, read_word
from engine.evolution.merging.spec import Limits
from engine.training.estimate import read_shape
from registry.clock import SeededClock
from registry.db import Database
from registry.journal import MemoryRecorder
from registry.models import LoadableAdapter, NewAdapter, Source
from registry.registry import AdapterLimits, Registry

SHAPES = {f"model.layers.{layer}.self_attn.q_proj": (64, 64) for layer in range(2)} | {
    "model.layers.1.mlp.down_proj": (64, 128)
}
FIGURES = Figures(tokens=2021, base_perplexity=20.0, adapter_perplexity=21.0, kl=0.1, seconds=1.0, peak_mib=900)
SAYS = ("/bin/sh", "-c", f"echo '{FIGURES.model_dump_json()}'")


def scaled(pairs: Pairs, by: float) -> Pairs:
    return {module: (np.float32(by) * b, a) for module, (b, a) in pairs.items()}


@dataclass
class Works:
    home: Path
    config: Config
    db: Database
    registry: Registry

    def drift(self, program: tuple[str, ...] = PROGRAM, free: Callable[[], int] = available_mib) -> Drift:
        return Drift(self.config, self.home, self.db, SeededClock(1), program, free)

    async def adapter(self, name: str, pairs: Pairs, base: str = "tiny") -> LoadableAdapter:
        place = self.home / "made" / name
        await asyncio.to_thread(write_pairs, place, pairs, base_model_name_or_path=base)
        await self.registry.publish(place, NewAdapter(name, "sort", Source.QLORA))
        return await self.registry.resolve_for_load(name)

    def left(self) -> list[str]:
        places = self.home / "measuring"
        return os.listdir(places) if places.exists() else []


@asynccontextmanager
async def works(home: Path, *overrides: str) -> AsyncGenerator[Works]:
    await asyncio.to_thread(home.mkdir, parents=True)
    base = await asyncio.to_thread(make_tiny_base, home / "base")
    config = await asyncio.to_thread(configured, home, f"model.path={base}", "model.base_id=tiny", *overrides)
    clock = SeededClock(1)
    db = await Database.open(home / "rune.db", SETS, clock)
    try:
        registry = Registry(db, home / "adapters", AdapterLimits(1 << 24, 256), clock, MemoryRecorder())
        yield Works(home, config, db, registry)
    finally:
        await db.close()


@pytest.mark.timeout(400)  # its child imports torch
async def test_a_real_child_measures_a_planted_regressor(home: Path) -> None:
    """On the whole general text; what surprises the model more has the higher perplexity."""
    async with works(home) as w:
        harmful = await w.adapter("harmful", scaled(random_pairs(1, 4, SHAPES), 3.0))
        told: list[tuple[int, int]] = []

        async def progress(done: int, total: int, note: str = "") -> None:
            told.append((done, total))

        found = await w.drift().measure(harmful, progress)
        assert found.tokens > 1000 and found.rise > 0.03 and found.kl > 0.01
        assert told[-1][0] == told[-1][1] > 1 and w.left() == []


@pytest.mark.timeout(400)  # torch
def test_the_hooks_give_what_dense_deltas_in_the_weights_give(tmp_path: Path) -> None:
    """Independent of the hooks, the windows' sums and numpy: patched matrices, one text of one window, torch."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from engine.evolution.drift.model import measure

    base = make_tiny_base(tmp_path / "base")
    pairs = scaled(random_pairs(3, 4, SHAPES), 0.5)
    files = write_pairs(tmp_path / "adapter", pairs, lora_alpha=8)
    text = "def add(a, b):\n    return a + b\n"
    spec = DriftSpec(base_directory=base, adapter=files, limits=Limits(max_bytes=1 << 24, max_rank=64), text=text)
    found = measure(spec, lambda done, total: None)
    tokens = torch.tensor(AutoTokenizer.from_pretrained(base)(text, add_special_tokens=False)["input_ids"])
    plain, patched = (AutoModelForCausalLM.from_pretrained(base).eval() for _ in range(2))
    with torch.no_grad():
        for module, delta in deltas(pairs, scale=2.0).items():
            patched.get_submodule(module).weight += torch.from_numpy(delta).float()
        p, q = (model(tokens[None]).logits[0, :-1].double().log_softmax(-1) for model in (plain, patched))
    for log_probabilities, said in ((p, found.base_perplexity), (q, found.adapter_perplexity)):
        nll = -log_probabilities.gather(1, tokens[1:, None]).mean()
        assert said == pytest.approx(float(nll.exp()), rel=1e-5)
    assert found.kl == pytest.approx(float((p.exp() * (p - q)).sum(1).mean()), rel=1e-3)
    assert found.tokens == len(tokens) - 1 and found.kl > 1e-3
    harmless = write_pairs(tmp_path / "harmless", scaled(pairs, 1e-6))
    nothing = measure(spec.model_copy(update={"adapter": harmless}), lambda done, total: None)
    assert nothing.base_perplexity == found.base_perplexity, "the hooks of the other pass are switched off"
    assert nothing.adapter_perplexity == pytest.approx(nothing.base_perplexity, rel=1e-5) and nothing.kl < 1e-6


@pytest.mark.timeout(400)  # torch
def test_an_adapter_of_another_model_does_not_fit(tmp_path: Path) -> None:
    from engine.evolution.drift.model import measure

    base = make_tiny_base(tmp_path / "base")
    for name, shapes in (
        ("shape", {"model.layers.0.self_attn.q_proj": (32, 64)}),
        ("module", {"model.nothing": (4, 4)}),
    ):
        files = write_pairs(tmp_path / name, random_pairs(1, 2, shapes))
        spec = DriftSpec(
            base_directory=base, adapter=files, limits=Limits(max_bytes=1 << 24, max_rank=64), text="a b c"
        )
        with pytest.raises(UnmeasuredError, match=r"does not fit|has no module"):
            measure(spec, lambda done, total: None)


async def test_it_is_measured_once_and_what_is_known_needs_neither_child_nor_memory(home: Path) -> None:
    async with works(home) as w:
        adapter = await w.adapter("a", random_pairs(1, 4, SHAPES))
        first = await w.drift(SAYS).measure(adapter, tell_nobody)
        assert (first.tokens, first.rise, first.kl) == (2021, pytest.approx(0.05), 0.1)
        again = await w.drift(("/bin/false",), free=lambda: 0).measure(adapter, tell_nobody)
        assert again == first
        other = await w.adapter("b", random_pairs(2, 4, SHAPES))
        with pytest.raises(UnmeasuredError):  # negative control: other weights are not known
            await w.drift(("/bin/false",)).measure(other, tell_nobody)


async def test_another_base_model_is_measured_anew(home: Path) -> None:
    async with works(home) as w:
        adapter = await w.adapter("a", random_pairs(1, 4, SHAPES))
        first = await w.drift(SAYS).measure(adapter, tell_nobody)
        await asyncio.to_thread(make_tiny_base, home / "base", 7)
        with pytest.raises(UnmeasuredError):
            await w.drift(("/bin/false",)).measure(adapter, tell_nobody)
        second = await w.drift(SAYS).measure(adapter, tell_nobody)
        assert second.base_digest != first.base_digest and second.text_digest == first.text_digest


@pytest.mark.parametrize(
    ("override", "base", "reason"),
    [
        ("inference.backend=scripted", "tiny", "scripted has no base model"),
        ("inference.backend=ollama", "tiny", "ollama has no base model"),
        ("model.base_id=tiny", "another", "Its base model is another, and tiny is served."),
        ("evaluation.max_perplexity_rise=0", "tiny", "max_perplexity_rise is 0"),
    ],
)
async def test_what_cannot_be_measured_says_why(home: Path, override: str, base: str, reason: str) -> None:
    async with works(home, override) as w:
        adapter = await w.adapter("a", random_pairs(1, 4, SHAPES), base)
        with pytest.raises(UnmeasuredError, match=reason):
            await w.drift(SAYS).measure(adapter, tell_nobody)


async def test_a_model_beyond_the_free_memory_is_not_loaded(home: Path) -> None:
    async with works(home) as w:
        adapter = await w.adapter("a", random_pairs(1, 4, SHAPES))
        need = need_mib(await asyncio.to_thread(read_shape, w.home / "base"))
        with pytest.raises(UnmeasuredError, match=f"about {need} MiB of memory and {need - 1} MiB are free"):
            await w.drift(("/bin/false",), free=lambda: need - 1).measure(adapter, tell_nobody)
        await w.drift(SAYS, free=lambda: need).measure(adapter, tell_nobody)


async def test_a_base_model_that_is_not_there_or_cannot_be_opened_is_said(home: Path) -> None:
    from engine.errors import RuneError

    async with works(home) as w:
        adapter = await w.adapter("a", random_pairs(1, 4, SHAPES))
        garbage = home / "model.gguf"
        await asyncio.to_thread(garbage.write_bytes, b"no model")
        for path in (garbage, home / "nothing.gguf"):
            config = await asyncio.to_thread(configured, home, f"model.path={path}", "model.base_id=tiny")
            with pytest.raises(RuneError, match=path.name):
                await Drift(config, home, w.db, SeededClock(1)).measure(adapter, tell_nobody)


async def test_a_child_that_dies_refuses_or_says_nonsense_is_said_and_nothing_is_kept(home: Path) -> None:
    async with works(home) as w:
        adapter = await w.adapter("a", random_pairs(1, 4, SHAPES))
        for script, reason in (
            ("echo broken >&2; exit 7", "ended with status 7; its log ends: broken"),
            ("""echo '{"word": "failure", "reason": "It is too odd."}'""", "It is too odd"),
            ("echo surprise", "said something unknown"),
            (f"echo '{json.dumps({**FIGURES.model_dump(), 'kl': -1})}'", "said something unknown"),
            ("kill -9 $$", "was ended by SIGKILL"),
        ):
            with pytest.raises(UnmeasuredError, match=reason):
                await w.drift(("/bin/sh", "-c", script)).measure(adapter, tell_nobody)
        assert w.left() == []
        assert (await w.drift(SAYS).measure(adapter, tell_nobody)).tokens == 2021


async def test_cancelled_it_ends_its_process_and_leaves_nothing(home: Path) -> None:
    async with works(home) as w:
        adapter = await w.adapter("a", random_pairs(1, 4, SHAPES))
        spoke = asyncio.Event()

        async def progress(done: int, total: int, note: str = "") -> None:
            if done:
                spoke.set()

        talks = ("/bin/sh", "-c", """echo '{"word": "progress", "done": 1, "total": 4}'; exec sleep 1000""")
        task = asyncio.create_task(w.drift(talks).measure(adapter, progress))
        await spoke.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert w.left() == []
        assert not await asyncio.to_thread(living, str(home))


def living(word: str) -> list[str]:
    """Processes with the word in their command line, our own left out."""
    found: list[str] = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            command = Path("/proc", name, "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if word in command and int(name) != os.getpid():
            found.append(command)
    return found


async def test_what_a_killed_engine_left_is_removed(home: Path) -> None:
    async with works(home) as w:
        await asyncio.to_thread((home / "measuring" / "old").mkdir, parents=True)
        await w.drift().recover()
        assert w.left() == []


def test_specs_and_words_are_checked(tmp_path: Path) -> None:
    for raw in ("", "{}", json.dumps({"text": "x" * 10})):
        (tmp_path / "spec.json").write_text(raw)
        with pytest.raises(UnmeasuredError, match="spec"):
            read_spec(tmp_path / "spec.json")
    for word in (b"", b'{"word": "figures"}', b'{"word": "surprise"}'):
        with pytest.raises(UnmeasuredError, match="unknown"):
            read_word(word)
