"""Merges from files to a file (A62, A65): mixed ranks and scales, missing modules, hostile adapters, refusals."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from support.merging_house import (
    LIMITS,
    SHAPES,
    deltas,
    ignore,
    never,
    random_pairs,
    read_deltas,
    spec_of,
    write_pairs,
)

from engine.api_evolution import MergeMethod, MergeRequest, MergeSpace
from engine.evolution.merging.factors import AdapterFactors
from engine.evolution.merging.job import make_random, measure, merge
from engine.evolution.merging.spec import Cosines, Limits, MergeRefusedError, RandomAdapter
from registry.adapter_config import parse_config
from registry.errors import AdapterRejected
from registry.safeload import AdapterLimits, load_tensors

ALL = [method for method in MergeMethod if method is not MergeMethod.CAT_LEARNED]
FULL = 12
THOUSANDS = 2000


def close(first: Any, second: Any, tolerance: float = 1e-5) -> bool:
    return bool(np.linalg.norm(first - second) <= tolerance * np.linalg.norm(second))


@pytest.mark.parametrize("method", ALL)
def test_one_adapter_with_weight_1_is_itself_whatever_its_scale(tmp_path: Path, method: MergeMethod) -> None:
    """The identity that PEFT's own merges fail for rsLoRA (learning.md, fact 5)."""
    pairs = random_pairs(0, rank=4)
    parent = write_pairs(tmp_path / "a", pairs, lora_alpha=6, use_rslora=True)
    said = merge(spec_of(tmp_path / "out", parent, method=method, weights=(1.0,), density=1.0), ignore, never)
    expected = deltas(pairs, 6 / 2)
    found = read_deltas(tmp_path / "out")
    assert all(close(found[module], expected[module]) for module in SHAPES)
    assert (said.rank, said.modules, said.weights) == (4, 3, (1.0,))
    assert said.retained_energy == pytest.approx(1, abs=1e-6)
    assert said.parent_cosines == {"a": pytest.approx(1, abs=1e-6)}


def test_mixed_ranks_alphas_rslora_and_missing_modules_are_the_dense_sum(tmp_path: Path) -> None:
    one, two, three = random_pairs(0, 2), random_pairs(1, 5), random_pairs(2, 1)
    del two["layers.0.v_proj"], three["layers.1.q_proj"]
    parents = (
        write_pairs(tmp_path / "one", one, lora_alpha=7),
        write_pairs(tmp_path / "two", two, lora_alpha=3, use_rslora=True),
        write_pairs(tmp_path / "three", three, lora_alpha=0.5),
    )
    weights = (0.5, -1.5, 2.0)
    merge(spec_of(tmp_path / "out", *parents, method=MergeMethod.CAT, weights=weights), ignore, never)
    found = read_deltas(tmp_path / "out")
    scaled = [deltas(one, 7 / 2), deltas(two, 3 / 5**0.5), deltas(three, 0.5)]
    for module, (rows, columns) in SHAPES.items():
        dense = sum(
            (w * part.get(module, np.zeros((rows, columns))) for w, part in zip(weights, scaled, strict=True)),
            np.zeros((rows, columns)),
        )
        assert close(found[module], dense)


def test_rank_and_alpha_patterns_are_read_as_peft_means_them(tmp_path: Path) -> None:
    pairs = random_pairs(0, 2) | {"layers.1.q_proj": random_pairs(5, 4)["layers.1.q_proj"]}
    parent = write_pairs(
        tmp_path / "a",
        pairs,
        r=2,
        lora_alpha=2,
        rank_pattern={"layers.1.q_proj": 4},
        alpha_pattern={"v_proj": 6},
    )
    adapter = AdapterFactors(parent, AdapterLimits(1 << 20, 8))
    for module, scale in (("layers.0.q_proj", 1), ("layers.0.v_proj", 3), ("layers.1.q_proj", 0.5)):
        factors = adapter.factors(module)
        assert factors is not None and close(factors.dense(), deltas(pairs, scale)[module])
    assert adapter.rank == 4
    assert adapter.factors("layers.9.q_proj") is None


@pytest.mark.parametrize("space", list(MergeSpace))
@pytest.mark.parametrize("method", ALL)
def test_the_result_is_a_plain_lora_with_one_rank_and_says_what_it_lost(
    tmp_path: Path, method: MergeMethod, space: MergeSpace
) -> None:
    parents = [write_pairs(tmp_path / name, random_pairs(seed)) for seed, name in enumerate("abc")]
    said = merge(spec_of(tmp_path / "out", *parents, method=method, rank=2, space=space), ignore, never)
    config = parse_config((tmp_path / "out" / "adapter_config.json").read_bytes(), 64)
    assert (config.rank, config.alpha, config.use_rslora) == (2, 2.0, False)
    assert config.target_modules == ("q_proj", "v_proj")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    full = merge(spec_of(tmp_path / "full", *parents, method=method, rank=FULL, space=space), ignore, never)
    kept, total = (
        sum(np.linalg.norm(delta) ** 2 for delta in read_deltas(tmp_path / name).values()) for name in ("out", "full")
    )
    assert said.retained_energy == pytest.approx(kept / total, rel=1e-4)
    assert full.retained_energy == pytest.approx(1, abs=1e-5)
    assert 0 < said.retained_energy < 1


def test_the_rank_is_the_highest_of_the_parents_and_of_cat_their_sum(tmp_path: Path) -> None:
    parents = [write_pairs(tmp_path / name, random_pairs(seed, seed + 2)) for seed, name in enumerate("ab")]
    ranks = {method: merge(spec_of(tmp_path / method, *parents, method=method), ignore, never).rank for method in ALL}
    assert ranks == dict.fromkeys(ALL, 3) | {MergeMethod.CAT: 5}


def test_cosines_to_the_parents_are_those_of_the_dense_deltas(tmp_path: Path) -> None:
    parents = {name: random_pairs(seed) for seed, name in enumerate("ab")}
    files = [write_pairs(tmp_path / name, pairs) for name, pairs in parents.items()]
    said = merge(spec_of(tmp_path / "out", *files, rank=1, weights=(2.0, -1.0)), ignore, never)
    found = flat(read_deltas(tmp_path / "out"))
    for name, pairs in parents.items():
        other = flat(deltas(pairs))
        cosine = found @ other / np.linalg.norm(found) / np.linalg.norm(other)
        assert said.parent_cosines[name] == pytest.approx(cosine, abs=1e-5)
    assert said.parent_cosines["b"] < 0 < said.parent_cosines["a"]


def flat(matrices: dict[str, Any]) -> Any:
    return np.concatenate([matrices[module].ravel() for module in sorted(matrices)])


def test_a_weight_of_zero_leaves_an_adapter_out_and_its_modules_too(tmp_path: Path) -> None:
    one = {module: pair for module, pair in random_pairs(0).items() if module != "layers.1.q_proj"}
    files = [write_pairs(tmp_path / "a", one), write_pairs(tmp_path / "b", random_pairs(1))]
    said = merge(spec_of(tmp_path / "out", *files, weights=(1.0, 0.0)), ignore, never)
    assert said.modules == 2
    assert all(close(found, deltas(one)[module]) for module, found in read_deltas(tmp_path / "out").items())


def test_equal_requests_give_equal_bytes(tmp_path: Path) -> None:
    """So an operation that is done again after a crash makes the same adapter; another seed makes another."""
    files = [write_pairs(tmp_path / name, random_pairs(seed)) for seed, name in enumerate("ab")]
    weights = {}
    for name, seed in (("first", 1), ("again", 1), ("other", 2)):
        merge(spec_of(tmp_path / name, *files, method=MergeMethod.DARE_TIES, seed=seed), ignore, never)
        weights[name] = (tmp_path / name / "adapter_model.safetensors").read_bytes()
    assert weights["first"] == weights["again"] != weights["other"]


# --- hostile inputs ---


def test_adapters_of_zeros_are_neutral_and_alone_they_are_refused(tmp_path: Path) -> None:
    zeros = {module: (np.zeros_like(b), a) for module, (b, a) in random_pairs(1).items()}
    files = [write_pairs(tmp_path / "a", random_pairs(0)), write_pairs(tmp_path / "zero", zeros)]
    said = merge(spec_of(tmp_path / "out", *files, method=MergeMethod.TIES, density=1.0), ignore, never)
    found = read_deltas(tmp_path / "out")
    assert all(close(found[module], dense) for module, dense in deltas(random_pairs(0)).items())
    assert said.parent_cosines["zero"] == 0
    with pytest.raises(MergeRefusedError, match="would change nothing"):
        merge(spec_of(tmp_path / "nothing", files[1]), ignore, never)
    assert not (tmp_path / "nothing").exists()


@pytest.fixture
def few_files() -> Iterator[None]:
    """As few open files as a process has where nobody raised the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("few_files")
@pytest.mark.parametrize("method", [MergeMethod.CAT, MergeMethod.TIES])
def test_thousands_of_adapters_of_rank_1_are_merged(tmp_path: Path, method: MergeMethod) -> None:
    """Together they span more than the matrix has: the core is then as large as it, and still exact. They are more
    than the files that a process may have open."""
    shapes = {"layers.0.q_proj": (12, 10)}
    files = [write_pairs(tmp_path / f"a{seed}", random_pairs(seed, 1, shapes)) for seed in range(THOUSANDS)]
    said = merge(spec_of(tmp_path / "out", *files, rank=FULL, method=method, density=1.0), ignore, never)
    assert len(said.weights) == len(said.parent_cosines) == THOUSANDS
    if method is MergeMethod.CAT:
        dense = sum(deltas(random_pairs(seed, 1, shapes))["layers.0.q_proj"] for seed in range(THOUSANDS)) / THOUSANDS
        assert close(read_deltas(tmp_path / "out")["layers.0.q_proj"], dense, 1e-4)


def test_a_request_takes_sixty_four_adapters_and_no_more() -> None:
    names = [f"a{number}" for number in range(65)]
    assert len(MergeRequest.model_validate({"adapters": names[:64]}).adapters) == 64
    with pytest.raises(ValidationError, match="at most 64"):
        MergeRequest.model_validate({"adapters": names})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused_by_name(tmp_path: Path, value: float) -> None:
    pairs = random_pairs(0)
    pairs["layers.0.q_proj"][1][0, 0] = value
    files = [write_pairs(tmp_path / "good", random_pairs(1)), write_pairs(tmp_path / "bad", pairs)]
    with pytest.raises(AdapterRejected, match=r"bad: tensor .*layers\.0\.q_proj.* infinite or not a number"):
        merge(spec_of(tmp_path / "out", *files), ignore, never)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("space", list(MergeSpace))
@pytest.mark.parametrize("method", ALL)
def test_huge_values_are_merged_or_refused_in_words(tmp_path: Path, method: MergeMethod, space: MergeSpace) -> None:
    """Each value is a float32 and finite; their products need not be."""
    files = []
    for seed, name in enumerate("ab"):
        pairs = {module: (b * np.float32(1e30), a * np.float32(1e30)) for module, (b, a) in random_pairs(seed).items()}
        files.append(write_pairs(tmp_path / name, pairs))
    spec = spec_of(tmp_path / "out", *files, method=method, space=space)
    if space is MergeSpace.CORE or method in (MergeMethod.LINEAR, MergeMethod.CAT):
        assert 0 < merge(spec, ignore, never).retained_energy <= 1
        tensors = load_tensors(tmp_path / "out" / "adapter_model.safetensors", AdapterLimits(1 << 20, 64))
        assert all(np.isfinite(array).all() for array in tensors.values())
    else:
        with pytest.raises(ValueError, match="beyond what float32 holds"):
            merge(spec, ignore, never)
        assert not (tmp_path / "out").exists()


def test_a_scale_that_makes_values_infinite_is_refused_by_name(tmp_path: Path) -> None:
    pairs = {module: (b * np.float32(1e37), a) for module, (b, a) in random_pairs(0).items()}
    parent = write_pairs(tmp_path / "a", pairs, lora_alpha=1e6)
    with pytest.raises(AdapterRejected, match=r"a: layers.* times its scale is beyond what float32 holds"):
        merge(spec_of(tmp_path / "out", parent), ignore, never)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"use_dora": True}, "'use_dora': DoRA"),
        ({"modules_to_save": ["lm_head"]}, "'modules_to_save': it replaces whole modules"),
        ({"lora_bias": True}, "'lora_bias': it adds biases"),
        ({"bias": "all"}, "'bias'"),
        ({"layer_replication": [[0, 1]]}, "'layer_replication'"),
        ({"rank_pattern": {"(a+)+$": 2}}, "not a plain module name"),
        ({"rank_pattern": {"q_proj": 1000}}, "rank_pattern"),
        ({"alpha_pattern": {"q_proj": -1}}, "alpha_pattern"),
        ({"alpha_pattern": {"q_proj": True}}, "alpha_pattern"),
        ({"alpha_pattern": ["q_proj"]}, "alpha_pattern"),
        ({"lora_alpha": 1e300}, "'lora_alpha'"),
        ({"r": 2}, "do not fit rank 2"),
    ],
)
def test_what_cannot_be_merged_is_refused_by_name(tmp_path: Path, config: dict[str, Any], reason: str) -> None:
    """A62: the adapter and the key are named."""
    parent = write_pairs(tmp_path / "a", random_pairs(0), **config)
    with pytest.raises(AdapterRejected, match=r"^a: ") as refused:
        merge(spec_of(tmp_path / "out", parent), ignore, never)
    assert reason in str(refused.value)


def test_a_file_that_is_not_the_published_one_is_refused(tmp_path: Path) -> None:
    parent = write_pairs(tmp_path / "a", random_pairs(0)).model_copy(update={"sha256": "0" * 64})
    with pytest.raises(AdapterRejected, match="digest"):
        merge(spec_of(tmp_path / "out", parent), ignore, never)


@pytest.mark.parametrize("how", ["written", "replaced"])
def test_a_file_that_changes_after_its_scan_is_noticed(tmp_path: Path, how: str) -> None:
    parent, other = (write_pairs(tmp_path / name, random_pairs(seed)) for seed, name in enumerate("ab"))
    weights = parent.directory / "adapter_model.safetensors"
    adapter = AdapterFactors(parent, AdapterLimits(1 << 20, 8))
    assert adapter.factors("layers.0.q_proj") is not None
    if how == "replaced":
        (other.directory / weights.name).replace(weights)
    else:
        os.utime(weights, ns=(0, 1))  # whatever the clock's grain, a write moves it
    with pytest.raises(AdapterRejected, match="a: its weights were changed"):
        adapter.factors("layers.0.q_proj")


def test_shapes_of_different_models_are_refused(tmp_path: Path) -> None:
    """A62: an adapter may lie about its base model, its shapes do not."""
    other = random_pairs(1, shapes={"layers.0.q_proj": (12, 11)})
    files = [write_pairs(tmp_path / "a", random_pairs(0)), write_pairs(tmp_path / "b", other)]
    with pytest.raises(MergeRefusedError, match=r"a and b are not of one base model: layers\.0\.q_proj"):
        merge(spec_of(tmp_path / "out", *files), ignore, never)


def test_a_result_that_the_registry_would_not_take_is_refused_before_the_work(tmp_path: Path) -> None:
    files = [write_pairs(tmp_path / name, random_pairs(seed, 4)) for seed, name in enumerate("ab")]
    low = Limits(max_bytes=1 << 20, max_rank=7)
    with pytest.raises(MergeRefusedError, match="rank 8; 7 is the most"):
        merge(spec_of(tmp_path / "out", *files, method=MergeMethod.CAT, limits=low), ignore, never)
    small = Limits(max_bytes=3000, max_rank=64)
    with pytest.raises(MergeRefusedError, match="MiB are the most"):
        merge(spec_of(tmp_path / "out", *files, rank=60, limits=small), ignore, never)


@pytest.mark.parametrize(("weights", "reason"), [((1.0,), "1 weights for 2"), ((0.0, 0.0), "Every weight is 0")])
def test_weights_must_be_one_for_each_and_not_all_zero(tmp_path: Path, weights: tuple[float, ...], reason: str) -> None:
    files = [write_pairs(tmp_path / name, random_pairs(seed)) for seed, name in enumerate("ab")]
    with pytest.raises(MergeRefusedError, match=reason):
        merge(spec_of(tmp_path / "out", *files, weights=weights), ignore, never)


# --- the control, and the population ---


def test_the_random_control_has_each_modules_norm_and_none_of_its_direction(tmp_path: Path) -> None:
    shapes = {"layers.0.q_proj": (96, 80), "layers.0.v_proj": (64, 80)}
    pairs = random_pairs(0, 4, shapes)
    parent = write_pairs(tmp_path / "a", pairs, lora_alpha=12)
    for seed in (1, 2):
        out = tmp_path / f"out{seed}"
        spec = RandomAdapter(parents=(parent,), base_model_id="samples/tiny", seed=seed, limits=LIMITS, output=out)
        assert make_random(spec, ignore).rank == 4
    one, two = read_deltas(tmp_path / "out1"), read_deltas(tmp_path / "out2")
    for module, delta in deltas(pairs, 3).items():
        norm = np.linalg.norm(delta)
        assert np.linalg.norm(one[module]) == pytest.approx(norm, rel=1e-4)
        assert abs((one[module] * delta).sum()) < 0.1 * norm**2
        assert abs((one[module] * two[module]).sum()) < 0.1 * norm**2


def test_cosines_of_a_population_are_those_of_the_dense_deltas(tmp_path: Path) -> None:
    """A64: alike is alike whatever the scale and the factors; what is missing is zero."""
    population = {"a": random_pairs(0), "b": random_pairs(1, 5), "zero": random_pairs(2)}
    population["part"] = {"layers.0.q_proj": population["a"]["layers.0.q_proj"]}
    population["zero"] = {module: (0 * b, a) for module, (b, a) in population["zero"].items()}
    files = [write_pairs(tmp_path / name, pairs, lora_alpha=9) for name, pairs in population.items()]
    found = np.array(measure(Cosines(parents=tuple(files), limits=LIMITS), ignore).cosines)
    names = list(population)
    for i, first in enumerate(names):
        for j, second in enumerate(names):
            one, other = (
                flat(
                    {module: deltas(population[name]).get(module, np.zeros(shape)) for module, shape in SHAPES.items()}
                )
                for name in (first, second)
            )
            norms = np.linalg.norm(one) * np.linalg.norm(other)
            assert found[i, j] == pytest.approx(one @ other / norms if norms else 0, abs=1e-5)


def test_progress_reaches_its_total(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    files = [write_pairs(tmp_path / name, random_pairs(seed)) for seed, name in enumerate("ab")]
    merge(spec_of(tmp_path / "out", *files), lambda done, total, _: told.append((done, total)), never)
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_an_unfinished_output_is_replaced(tmp_path: Path) -> None:
    parent = write_pairs(tmp_path / "a", random_pairs(0))
    for left in (tmp_path / "out", tmp_path / ".out.partial"):
        left.mkdir()
        (left / "rubbish").write_text("x")
    merge(spec_of(tmp_path / "out", parent), ignore, never)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "out"]
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["r"] == 3
