"""Adapters with ranks and alphas of some modules' own are made plain on their way in, with the same deltas."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.merging_house import deltas, random_pairs, read_deltas, write_pairs
from support.patterned import made_plain
from support.registry_house import open_house

from registry.adapter_config import parse_config
from registry.errors import AdapterRejected
from registry.patterns import parse_patterned
from registry.safeload import AdapterLimits, load_tensors
from registry.samples import safetensors_bytes

PATTERNS = {"rank_pattern": {"layers.1.q_proj": 6}, "alpha_pattern": {"v_proj": 9, "layers.1.q_proj": 3}}
SCALES = {"layers.0.q_proj": 4 / 2, "layers.0.v_proj": 9 / 2, "layers.1.q_proj": 3 / 6}


def patterned(folder: Path, **config: object) -> Path:
    pairs = random_pairs(0, 2) | {"layers.1.q_proj": random_pairs(5, 6)["layers.1.q_proj"]}
    values: dict[str, Any] = {"r": 2, "lora_alpha": 4, "base_model_name_or_path": "samples/tiny", **PATTERNS, **config}
    return write_pairs(folder, pairs, **values).directory


def expected(scales: Mapping[str, float]) -> dict[str, NDArray[np.float64]]:
    pairs = random_pairs(0, 2) | {"layers.1.q_proj": random_pairs(5, 6)["layers.1.q_proj"]}
    return {module: scales[module] * delta for module, delta in deltas(pairs).items()}


def assert_same(found: Mapping[str, NDArray[np.float64]], wanted: Mapping[str, NDArray[np.float64]]) -> None:
    assert found.keys() == wanted.keys()
    for module, delta in wanted.items():
        assert np.linalg.norm(found[module] - delta) <= 1e-6 * np.linalg.norm(delta), module


def test_one_rank_one_scale_and_the_same_deltas(tmp_path: Path) -> None:
    plain = made_plain(patterned(tmp_path / "a"), tmp_path / "root")
    config = parse_config((plain / "adapter_config.json").read_bytes(), 64)
    assert (config.rank, config.alpha, config.use_rslora) == (6, 6.0, False)
    assert_same(read_deltas(plain), expected(SCALES))


def test_of_rslora_each_module_is_divided_by_the_root_of_its_own_rank(tmp_path: Path) -> None:
    plain = made_plain(patterned(tmp_path / "a", use_rslora=True), tmp_path / "root")
    roots = {"layers.0.q_proj": 4 / 2**0.5, "layers.0.v_proj": 9 / 2**0.5, "layers.1.q_proj": 3 / 6**0.5}
    assert_same(read_deltas(plain), expected(roots))


async def test_it_is_listed_verified_and_named_by_what_it_became(tmp_path: Path) -> None:
    source = await asyncio.to_thread(patterned, tmp_path / "a")
    async with open_house(tmp_path) as house:
        first = await house.registry.import_directory(str(source), "first", task_type="sort")
        again = await house.registry.import_directory(str(source), "again", task_type="sort")
        assert (first.rank, first.digest) == (6, again.digest)
        assert await house.registry.verify("first")
        loadable = await house.registry.resolve_for_load("first")
        assert_same(await asyncio.to_thread(read_deltas, loadable.directory), expected(SCALES))


def test_half_precision_is_widened_first(tmp_path: Path) -> None:
    source = patterned(tmp_path / "a")
    weights = source / "adapter_model.safetensors"
    halves = {
        name: array.astype(np.float16) for name, array in load_tensors(weights, AdapterLimits(1 << 20, 8)).items()
    }
    weights.write_bytes(safetensors_bytes(halves))
    found = read_deltas(made_plain(source, tmp_path / "root"))
    for module, delta in expected(SCALES).items():
        assert np.linalg.norm(found[module] - delta) <= 2e-3 * np.linalg.norm(delta)


def test_without_patterns_the_bytes_are_copied(tmp_path: Path) -> None:
    source = write_pairs(tmp_path / "a", random_pairs(0), base_model_name_or_path="samples/tiny").directory
    config = json.loads((source / "adapter_config.json").read_text())
    (source / "adapter_config.json").write_text(json.dumps({**config, "rank_pattern": {}, "alpha_pattern": {}}))
    plain = made_plain(source, tmp_path / "root")
    name = "adapter_model.safetensors"
    assert (plain / name).read_bytes() == (source / name).read_bytes()


def test_names_mean_what_they_mean_to_peft() -> None:
    """The end of a path, whole parts of it, the first that fits; a dot is any character."""
    raw = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"]}
    config, patterns = parse_patterned(
        json.dumps(raw | {"rank_pattern": {"1.q.proj": 3, "q_proj": 4, "proj": 5}}).encode(), 64
    )
    ranks = {module: patterns.of(module, config).rank for module in ("a.1.q_proj", "a.11.q_proj", "q_proj", "aq_proj")}
    assert ranks == {"a.1.q_proj": 3, "a.11.q_proj": 4, "q_proj": 4, "aq_proj": 2}


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"rank_pattern": {"(a+)+$": 2}}, "not a plain module name"),
        ({"rank_pattern": {"q_proj": 1.5}}, "a rank is a whole number"),
        ({"rank_pattern": {"q_proj": 65}}, "a rank is a whole number from 1 to 64"),
        ({"rank_pattern": {"q_proj": 3}}, "do not fit rank 3"),
        ({"rank_pattern": ["q_proj"]}, "it is an object"),
        ({"alpha_pattern": {"q_proj": True}}, "not given a number above 0"),
        ({"alpha_pattern": {"q_proj": 1e7}}, "an alpha is a number above 0 and at most 1e"),
        ({"use_dora": True}, "DoRA"),
    ],
)
def test_what_cannot_be_made_plain_is_refused_by_name(tmp_path: Path, config: dict[str, Any], reason: str) -> None:
    with pytest.raises(AdapterRejected) as refused:
        made_plain(patterned(tmp_path / "a", **config), tmp_path / "root")
    assert reason in str(refused.value)
    assert list((tmp_path / "root").iterdir()) == [], "nothing is left behind"


def test_a_scale_that_leaves_float32_is_refused(tmp_path: Path) -> None:
    source = patterned(tmp_path / "a", alpha_pattern={"v_proj": 1e6})
    weights = source / "adapter_model.safetensors"
    tensors = load_tensors(weights, AdapterLimits(1 << 20, 8))
    weights.write_bytes(safetensors_bytes({name: array * np.float32(1e34) for name, array in tensors.items()}))
    with pytest.raises(AdapterRejected, match=r"v_proj.* beyond what float32 holds"):
        made_plain(source, tmp_path / "root")


def test_padding_must_not_grow_it_beyond_the_limit(tmp_path: Path) -> None:
    """One module of a high rank among many of rank 1: small as it is, large when all have one rank."""
    shapes = {f"layers.{n}.q_proj": (1000, 1000) for n in range(80)}
    pairs = random_pairs(0, 1, shapes) | random_pairs(1, 60, {"layers.0.q_proj": (1000, 1000)})
    values: dict[str, Any] = {"r": 1, "lora_alpha": 1, "rank_pattern": {"layers.0.q_proj": 60}}
    source = write_pairs(tmp_path / "a", pairs, base_model_name_or_path="samples/tiny", **values).directory
    with pytest.raises(AdapterRejected, match="with one rank of 60 the weights have more than"):
        made_plain(source, tmp_path / "root")
