"""The GGUF form of a trained adapter, and what a base model says of itself before it is unpacked."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import gguf
import numpy as np
import pytest
from support.training_house import House, open_house, write_base

from engine.errors import ModelNotFoundError, TrainingError
from engine.training.base import look_at_base
from engine.training.estimate import read_shape
from registry.blobs import file_digest

WIDTH, HEADS, LAYERS, VOCABULARY = 16, 2, 2, 32
DONE = (["adapter", 1], ["end"], ["exit", 0])


def write_gguf(path: Path, *, output: bool = False) -> Path:
    """A llama of the width of `registry.samples`, with the matrices that its adapters change."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(WIDTH * 2)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    square = np.zeros((WIDTH, WIDTH), np.float32)
    names = [f"blk.{layer}.attn_{name}.weight" for layer in range(LAYERS) for name in ("q", "k", "v", "output")]
    table = np.zeros((VOCABULARY, WIDTH), np.float32)
    tensors = dict.fromkeys(names, square) | {"token_embd.weight": table} | ({"output.weight": table} if output else {})
    for name, array in tensors.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


async def published(house: House) -> tuple[Path | None, dict[str, object]]:
    trainer, _ = await house.trainer(*DONE, adapter_id="mine")
    assert (await trainer.run(1)).succeeded
    live = await trainer.publish()
    loadable = await house.registry.resolve_for_load("mine")
    expected = None if loadable.gguf is None else await asyncio.to_thread(file_digest, loadable.gguf)
    assert live is not None and live.gguf_sha256 == loadable.gguf_sha256 == expected
    return loadable.gguf, dict((await house.jobs.get(trainer.job_id)).metrics)


async def test_an_adapter_is_published_with_its_gguf_form_in_one_transaction(tmp_path: Path) -> None:
    base = await asyncio.to_thread(write_gguf, tmp_path / "base.gguf")
    async with open_house(tmp_path / "home", f'model.path="{base}"') as house:
        found, metrics = await published(house)
        assert found is not None and "no_gguf" not in metrics
        names = await asyncio.to_thread(lambda: [tensor.name for tensor in gguf.GGUFReader(found).tensors])
        assert "blk.0.attn_q.weight.lora_a" in names and len(names) == 8
        order = [event.subject.partition("/")[0] for event in await house.journal.replay()][-5:]
        assert order == ["adapter", "change", "blob", "job", "training"]


async def test_a_base_that_does_not_fit_leaves_the_adapter_without_that_form_and_says_why(tmp_path: Path) -> None:
    async with open_house(tmp_path / "home") as house:  # the embedded model, and a sample adapter of another width
        found, metrics = await published(house)
        assert found is None and "does not fit the base model" in str(metrics["no_gguf"])


async def test_a_base_directory_has_no_gguf_form(tmp_path: Path) -> None:
    base = await asyncio.to_thread(write_base, tmp_path / "base")
    async with open_house(tmp_path / "home", f'model.path="{base}"') as house:
        found, metrics = await published(house)
        assert (found, metrics["no_gguf"]) == (None, "the base model is no GGUF file")


async def test_the_shape_of_a_gguf_file_and_of_a_directory(tmp_path: Path) -> None:
    for output in (False, True):
        base = await asyncio.to_thread(lambda output=output: write_gguf(tmp_path / f"{output}.gguf", output=output))
        async with open_house(tmp_path / f"home-{output}", f'model.path="{base}"') as house:
            found = await asyncio.to_thread(look_at_base, house.config, house.home)
        shape = found.shape
        assert (shape.hidden, shape.layers, shape.vocabulary, shape.query) == (WIDTH, LAYERS, VOCABULARY, WIDTH)
        assert (shape.tied, found.digest) == (not output, "")
    directory = await asyncio.to_thread(write_base, tmp_path / "base")
    async with open_house(tmp_path / "home", f'model.path="{directory}"') as house:
        found = await asyncio.to_thread(look_at_base, house.config, house.home)
        assert found.shape == await asyncio.to_thread(read_shape, directory) and len(found.digest) == 64
        await asyncio.to_thread((directory / "config.json").write_text, json.dumps({"hidden_size": "wide"}))
        with pytest.raises(TrainingError, match="does not say its size"):
            await asyncio.to_thread(look_at_base, house.config, house.home)


async def test_a_file_that_is_no_model_is_a_plain_sentence(tmp_path: Path) -> None:
    bad = tmp_path / "bad.gguf"
    await asyncio.to_thread(bad.write_bytes, b"nothing of that kind")
    async with open_house(tmp_path / "home", f'model.path="{bad}"') as house:
        with pytest.raises(TrainingError, match=r"bad\.gguf does not say its size"):
            await asyncio.to_thread(look_at_base, house.config, house.home)
    async with open_house(tmp_path / "other", 'model.path="/no/such.gguf"') as house:
        with pytest.raises(ModelNotFoundError):
            await asyncio.to_thread(look_at_base, house.config, house.home)
