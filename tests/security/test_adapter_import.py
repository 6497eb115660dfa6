"""Adapters that pass for whole and do not fit: refused at import, by the tensor's name, and nothing is left of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.engine_process import api
from support.registry_house import open_house

from engine.config import load_config
from engine.inference.adapter_check import linear_shapes
from engine.inference.import_check import ARCHITECTURES, ImportCheck, base_shapes, changes, check_proportion
from engine.inference.sidecar.lora_gguf import HALVES_TO_PAIRS
from registry.errors import AdapterRejected
from registry.samples import safetensors_bytes

BASE_ID = "tests/two-layers"
SIZES = {"self_attn.q_proj": (16, 16), "self_attn.v_proj": (8, 16), "mlp.down_proj": (16, 32)}
"""(out, in) in each of the two layers of the base model."""
SHAPES = {f"model.layers.{layer}.{name}": size for layer in range(2) for name, size in SIZES.items()}

Tensors = dict[str, NDArray[Any]]


def write_base(folder: Path) -> Path:
    folder.mkdir()
    matrices = {f"{module}.weight": np.zeros(size, np.float32) for module, size in SHAPES.items()}
    other = {"model.embed_tokens.weight": np.zeros((64, 16), np.float32)}
    (folder / "model.safetensors").write_bytes(safetensors_bytes(matrices | other))
    (folder / "config.json").write_text("{}")
    return folder


def lora(shapes: Mapping[str, tuple[int, int]] = SHAPES, *, rank: int = 4, scale: float = 0.1) -> Tensors:
    random = np.random.default_rng(0)
    tensors: Tensors = {}
    for module, (rows, columns) in shapes.items():
        stem = f"base_model.model.{module}"
        tensors[f"{stem}.lora_A.weight"] = random.standard_normal((rank, columns), np.float32) * np.float32(scale)
        tensors[f"{stem}.lora_B.weight"] = random.standard_normal((rows, rank), np.float32) * np.float32(scale)
    return tensors


def times(tensors: Tensors, factor: float, *, only: str = "") -> Tensors:
    return {
        name: array * np.float32(factor) if name.endswith("lora_B.weight") and only in name else array
        for name, array in tensors.items()
    }


@dataclass(frozen=True)
class Case:
    tensors: Tensors
    says: Sequence[str]
    """Words of the sentence."""
    config: Mapping[str, object]


def case(tensors: Tensors, *says: str, **config: object) -> Case:
    return Case(tensors, says, config)


OUTSIDE, FORCE = "model.layers.2.self_attn.q_proj", "model.layers.1.mlp.down_proj"
MANY = {f"model.layers.{layer}.{name}": size for layer in range(4) for name, size in SIZES.items()}
HOSTILE: dict[str, Case] = {
    "another hidden size": case(
        lora({name: (rows, 24) for name, (rows, _) in SHAPES.items()}), "q_proj.lora_A.weight", "(4, 24)", "(4, 16)"
    ),
    "too many rows": case(
        lora(SHAPES | {"model.layers.1.self_attn.v_proj": (16, 16)}),
        "model.layers.1.self_attn.v_proj.lora_B.weight", "(16, 4)", "(8, 4)",
    ),
    "the two sides exchanged": case(lora({FORCE: (32, 16)}), "down_proj.lora_A.weight", "(4, 16)", "(4, 32)"),
    "a layer that is not there": case(lora(SHAPES | {OUTSIDE: (16, 16)}), OUTSIDE, "no such linear module"),
    "a module that is not there": case(
        lora({"model.layers.0.self_attn.x_proj": (16, 16)}), "self_attn.x_proj.lora_A.weight", "no such linear module",
        target_modules=["x_proj"],
    ),
    "names of another architecture": case(
        lora({"transformer.h.0.attn.q_proj": (16, 16)}), "transformer.h.0.attn.q_proj", "no such linear module"
    ),
    "the embedding": case(
        lora({"model.embed_tokens": (64, 16)}), "embed_tokens", "no such linear module", target_modules=["embed_tokens"]
    ),
    "another hidden size behind a rank of its own": case(
        lora({"model.layers.0.self_attn.q_proj": (16, 24)}, rank=2), "q_proj.lora_A.weight", "24)", "16)",
        rank_pattern={"q_proj": 2},
    ),
    "weights that drown the model": case(times(lora(), 1e6), "changes each weight by", "at most 100 is taken"),
    "numbers at the edge of float32": case(times(lora(), 1e37), "changes each weight by", "at most 100 is taken"),
}  # fmt: skip
FITTING: dict[str, Case] = {
    "all modules": case(lora()),
    "one module": case(lora({FORCE: SIZES["mlp.down_proj"]})),
    "a rank of its own": case(lora({FORCE: (16, 32)}, rank=2), rank_pattern={"down_proj": 2}),
    "zeros": case(times(lora(), 0.0)),
    "a strong adapter": case(times(lora(), 30.0)),
    "made for another base model": case(lora({OUTSIDE: (9, 9)}), base_model_name_or_path="tests/other"),
}


def write(folder: Path, tried: Case) -> Path:
    folder.mkdir(parents=True)
    targets = ["q_proj", "v_proj", "down_proj"]
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": targets}
    config["base_model_name_or_path"] = BASE_ID
    (folder / "adapter_config.json").write_text(json.dumps(config | dict(tried.config)))
    (folder / "adapter_model.safetensors").write_bytes(safetensors_bytes(tried.tensors))
    return folder


def files(home: Path) -> list[str]:
    return sorted(str(path) for path in (home / "adapters").rglob("*"))


async def test_what_does_not_fit_the_base_model_is_refused_by_name_and_changes_nothing(
    home: Path, tmp_path: Path
) -> None:
    base = await asyncio.to_thread(write_base, tmp_path / "base")
    settings = (f'model.path="{base}"', f'model.base_id="{BASE_ID}"')
    async with api(home, *settings) as (engine, client):
        for number, (name, tried) in enumerate(FITTING.items()):
            folder = await asyncio.to_thread(write, tmp_path / f"fits-{number}", tried)
            answer = await client.post("/adapters", json={"id": f"fits-{number}", "directory": str(folder)})
            assert answer.status_code == 201, (name, answer.json())
        before = await asyncio.to_thread(files, home), await engine.journal.last_sequence()
        for number, (name, tried) in enumerate(HOSTILE.items()):
            folder = await asyncio.to_thread(write, tmp_path / f"bad-{number}", tried)
            answer = await client.post("/adapters", json={"id": "bad", "directory": str(folder)})
            body = answer.json()
            assert (answer.status_code, body["error"]) == (422, "AdapterRejectedError"), (name, body)
            assert all(words in body["message"] for words in tried.says), (name, body["message"])
            assert (await asyncio.to_thread(files, home), await engine.journal.last_sequence()) == before, name
            # Negative control: without the check the registry, which knows no base model, takes it.
            await engine.registry.import_directory(str(folder), f"bad-{number}", task_type="t")
            before = await asyncio.to_thread(files, home), await engine.journal.last_sequence()


async def test_where_the_base_model_is_not_there_its_shapes_are_not_asked_for(home: Path, tmp_path: Path) -> None:
    folder = await asyncio.to_thread(write, tmp_path / "a", HOSTILE["another hidden size"])
    settings = (f'model.path="{tmp_path / "none.gguf"}"', f'model.base_id="{BASE_ID}"')
    async with api(home, *settings) as (_, client):
        answer = await client.post("/adapters", json={"id": "a", "directory": str(folder)})
        assert answer.status_code == 201, answer.json()


def test_one_module_out_of_proportion_is_refused_and_a_few_small_ones_are_not() -> None:
    """Sizes as of adapters that were trained here: 0.002 to 0.15, at most 3 times the median."""
    even = {f"m{number}": 0.004 for number in range(9)}
    check_proportion(even | {"m1": 0.012, "m2": 0.0, "m3": 1e-9})
    with pytest.raises(AdapterRejected, match=r"'m4' changes each weight by 0\.5 .* less than 0\.004; at most 100 "):
        check_proportion(even | {"m4": 0.5})
    check_proportion({"m0": 0.004, "m1": 0.5})  # of two nobody knows which is out of proportion
    with pytest.raises(AdapterRejected, match="'m0'"):
        check_proportion({"m0": float("nan")})


def dense_change(tensors: Tensors, module: str) -> float:
    """Root mean square of the delta itself, at alpha / r = 2."""
    up, down = (tensors[f"base_model.model.{module}.lora_{side}.weight"] for side in "BA")
    return 2.0 * float(np.sqrt(np.mean((up @ down) ** 2)))


async def test_the_change_of_a_module_is_its_deltas_root_mean_square(tmp_path: Path) -> None:
    tensors, seen = lora(MANY), dict[str, float]()
    folder = await asyncio.to_thread(write, tmp_path / "a", case(tensors))
    outlier = await asyncio.to_thread(write, tmp_path / "b", case(times(tensors, 200.0, only=f"{FORCE}.")))
    check = ImportCheck(await asyncio.to_thread(load_config, tmp_path / "none.toml", (), {}))
    async with open_house(tmp_path / "home") as house:
        take = house.registry.import_directory
        await take(str(folder), "a", task_type="t", inspect=lambda staged: seen.update(changes(staged)))
        assert seen == pytest.approx({module: dense_change(tensors, module) for module in MANY}, rel=1e-5)
        with pytest.raises(AdapterRejected, match=FORCE):
            await take(str(outlier), "b", task_type="t", inspect=check)


def test_the_shapes_of_the_embedded_model_are_read_from_its_header(tmp_path: Path) -> None:
    shapes = base_shapes(load_config(tmp_path / "none.toml", (), {}))
    assert shapes is not None and len(shapes) == 210
    last = {name.rpartition(".")[2]: size for name, size in shapes.items() if ".29." in name}
    assert last == {
        "q_proj": (576, 576), "k_proj": (192, 576), "v_proj": (192, 576), "o_proj": (576, 576),
        "gate_proj": (1536, 576), "up_proj": (1536, 576), "down_proj": (576, 1536),
    }  # fmt: skip
    assert set(HALVES_TO_PAIRS) == ARCHITECTURES


def test_the_shapes_of_a_directory_are_read_from_its_headers(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    assert base_shapes(load_config(tmp_path / "none.toml", [f"model.path={base}"], {})) == linear_shapes(base) == SHAPES
    (tmp_path / "broken.gguf").write_bytes(b"GGUF")
    for path in (tmp_path / "none.gguf", tmp_path / "broken.gguf"):
        assert base_shapes(load_config(tmp_path / "none.toml", [f"model.path={path}"], {})) is None
