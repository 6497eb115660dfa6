"""Merges against PEFT: its dense (`*_svd`) variants give the same, and it loads what a merge wrote.

One model with two adapters is built once: importing torch and PEFT takes longer than all tests here.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.merging_house import Pairs, deltas, ignore, never, random_pairs, read_deltas, spec_of, write_pairs
from support.tiny_base import addition_rows, make_tiny_base

from engine.api_evolution import MergeMethod, MergeSpace, SignRule
from engine.evolution.merging.job import merge
from engine.evolution.merging.spec import Example, Learning, Limits, ParentFiles

SHAPES = {
    f"model.layers.{layer}.{module}": shape
    for layer in range(2)
    for module, shape in {
        "self_attn.q_proj": (64, 64),
        "self_attn.v_proj": (32, 64),
        "mlp.down_proj": (64, 128),
    }.items()
}
SCALE = {"a": 0.5, "b": 1.5}
RANK = 4
TOKENS = [[3, 17, 5, 9, 28, 1, 1, 30]]


def load_base(directory: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(directory, local_files_only=True).eval()


@dataclass
class Bench:
    base: Path
    adapters: dict[str, Pairs]
    files: list[ParentFiles]
    model: Any
    """PEFT's, with both adapters."""

    def dense(self, name: str) -> dict[str, NDArray[np.float64]]:
        return deltas(self.adapters[name], SCALE[name])

    def by_peft(self, kind: str, **options: Any) -> dict[str, NDArray[np.float64]]:
        """What PEFT's merge adds to each module."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a density of 1 prunes nothing, it says
            self.model.add_weighted_adapter(["a", "b"], combination_type=kind, adapter_name=kind, **options)
        found: dict[str, NDArray[np.float64]] = {}
        for module in SHAPES:
            layer = self.model.base_model.model.get_submodule(module)
            found[module] = layer.get_delta_weight(kind).detach().double().numpy()
        self.model.delete_adapter(kind)
        return found


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    root = tmp_path_factory.mktemp("peft")
    base = make_tiny_base(root / "base")
    adapters = {name: random_pairs(seed, RANK, SHAPES) for seed, name in enumerate("ab")}
    files = [
        write_pairs(root / name, pairs, lora_alpha=SCALE[name] * RANK, base_model_name_or_path="tiny")
        for name, pairs in adapters.items()
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries that PEFT imports, about each other
        from peft import PeftModel

        model = PeftModel.from_pretrained(load_base(base), root / "a", adapter_name="a")
        model.load_adapter(root / "b", adapter_name="b")
    return Bench(base, adapters, files, model)


def merged(bench: Bench, out: Path, method: MergeMethod, rank: int, **fields: Any) -> dict[str, NDArray[np.float64]]:
    merge(spec_of(out, *bench.files, method=method, rank=rank, **fields), ignore, never)
    return read_deltas(out)


def distance(found: dict[str, NDArray[np.float64]], expected: dict[str, NDArray[np.float64]]) -> float:
    """The largest relative error of a module."""
    return max(
        float(np.linalg.norm(found[module] - delta) / np.linalg.norm(delta)) for module, delta in expected.items()
    )


@pytest.mark.parametrize("rank", [3, 8])
def test_a_sum_is_pefts_svd(bench: Bench, tmp_path: Path, rank: int) -> None:
    ours = merged(bench, tmp_path / "out", MergeMethod.LINEAR, rank, weights=(0.7, 0.4))
    assert distance(ours, bench.by_peft("svd", weights=[0.7, 0.4], svd_rank=rank)) < 1e-4


def test_cat_is_pefts_cat(bench: Bench, tmp_path: Path) -> None:
    ours = merged(bench, tmp_path / "out", MergeMethod.CAT, 2 * RANK, weights=(0.7, 0.4))
    assert distance(ours, bench.by_peft("cat", weights=[0.7, 0.4])) < 1e-4


@pytest.mark.parametrize("density", [0.2, 0.5, 1.0])
def test_ties_in_delta_space_with_its_sign_rule_is_pefts_ties_svd(bench: Bench, tmp_path: Path, density: float) -> None:
    options = {"density": density, "space": MergeSpace.DELTA, "weights": (1.0, 1.0)}
    ours = merged(bench, tmp_path / "out", MergeMethod.TIES, 16, sign=SignRule.MAGNITUDE, **options)
    theirs = bench.by_peft("ties_svd", weights=[1.0, 1.0], density=density, svd_rank=16, majority_sign_method="total")
    assert distance(ours, theirs) < 1e-3
    core = merged(bench, tmp_path / "core", MergeMethod.TIES, 16, sign=SignRule.MAGNITUDE, density=density)
    assert distance(core, theirs) > 0.05, "core space is another rule: the comparison tells them apart"


def test_dare_that_drops_nothing_is_pefts_dare_linear_svd(bench: Bench, tmp_path: Path) -> None:
    """What is dropped differs by the random numbers; what is expected of it is in test_merging_rules."""
    ours = merged(bench, tmp_path / "out", MergeMethod.DARE, 8, density=1.0, space=MergeSpace.DELTA)
    assert distance(ours, bench.by_peft("dare_linear_svd", weights=[0.5, 0.5], density=1.0, svd_rank=8)) < 1e-4


def test_dare_ties_that_drops_nothing_is_pefts(bench: Bench, tmp_path: Path) -> None:
    options = {"density": 1.0, "space": MergeSpace.DELTA, "sign": SignRule.MAGNITUDE}
    ours = merged(bench, tmp_path / "out", MergeMethod.DARE_TIES, 16, **options)
    theirs = bench.by_peft("dare_ties_svd", weights=[1.0, 1.0], density=1.0, svd_rank=16, majority_sign_method="total")
    assert distance(ours, theirs) < 1e-3


def test_pefts_linear_is_not_the_sum_that_its_name_says(bench: Bench, tmp_path: Path) -> None:
    """Why the arithmetic is our own: averaging A and B apart leaves cross terms as large as the sum itself."""
    ours = merged(bench, tmp_path / "out", MergeMethod.LINEAR, 2 * RANK)
    assert distance(ours, {m: (bench.dense("a")[m] + bench.dense("b")[m]) / 2 for m in SHAPES}) < 1e-5
    assert distance(bench.by_peft("linear", weights=[0.5, 0.5]), ours) > 0.5


def test_the_baseline_of_the_proof_is_pefts_linear(bench: Bench, tmp_path: Path) -> None:
    from benchmarks.learn_peft import write

    write([file.directory for file in bench.files], [0.7, 0.4], tmp_path)
    assert distance(read_deltas(tmp_path), bench.by_peft("linear", weights=[0.7, 0.4])) < 1e-5


@pytest.mark.parametrize("method", [MergeMethod.LINEAR, MergeMethod.TIES])
def test_peft_loads_the_result_and_its_logits_are_those_of_the_patched_model(
    bench: Bench, tmp_path: Path, method: MergeMethod
) -> None:
    """A61: the same numbers as a model whose matrices have the dense delta added."""
    import torch
    from peft import PeftModel

    added = merged(bench, tmp_path / "out", method, 6)
    tokens = torch.tensor(TOKENS)
    with torch.no_grad():
        plain, patched = load_base(bench.base), load_base(bench.base)
        before = plain(tokens).logits
        for module, delta in added.items():
            patched.get_submodule(module).weight += torch.from_numpy(delta).float()
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            loaded = PeftModel.from_pretrained(plain, tmp_path / "out").eval()
        found, expected = loaded(tokens).logits, patched(tokens).logits
    assert not [warning for warning in said if "missing" in str(warning.message).lower()]
    assert float((found - expected).abs().max()) < 1e-3
    assert float((before - expected).abs().max()) > 0.1, "the adapter changes nothing: the comparison proves nothing"


@pytest.mark.parametrize("use_rslora", [False, True])
def test_an_imported_adapter_with_patterns_does_what_peft_does_with_them(
    bench: Bench, tmp_path: Path, use_rslora: bool
) -> None:
    """Ranks and alphas of some modules' own: made plain by the registry, and the same delta in every module."""
    from support.patterned import made_plain

    patterns = {
        "rank_pattern": {"layers.1.self_attn.q_proj": 2, "mlp.down_proj": 7},
        "alpha_pattern": {"layers.0.self_attn.q_proj": 5, "v_proj": 1},
    }
    ranks = {"model.layers.1.self_attn.q_proj": 2} | {f"model.layers.{n}.mlp.down_proj": 7 for n in range(2)}
    pairs = {m: random_pairs(3, ranks.get(m, RANK), {m: shape})[m] for m, shape in SHAPES.items()}
    values = {"r": RANK, "lora_alpha": 3, "use_rslora": use_rslora, "base_model_name_or_path": "tiny", **patterns}
    parent = write_pairs(tmp_path / "patterned", pairs, **values)
    bench.model.load_adapter(parent.directory, adapter_name="patterned")
    theirs = {
        module: bench.model.base_model.model.get_submodule(module).get_delta_weight("patterned").detach().numpy()
        for module in SHAPES
    }
    bench.model.delete_adapter("patterned")
    assert distance(read_deltas(made_plain(parent.directory, tmp_path / "plain")), theirs) < 1e-5
    ours = merged(Bench(bench.base, {}, [parent], None), tmp_path / "out", MergeMethod.LINEAR, 7)
    assert distance(ours, theirs) < 1e-5, "read as it is, by a merge"


def test_cat_learned_leaves_out_the_adapter_that_does_harm(bench: Bench, tmp_path: Path) -> None:
    """One adapter is a gradient step towards the examples, the other is noise: the scalars tell them apart."""
    from engine.evolution.merging.objective import learn_weights

    rows = addition_rows(6)
    examples = tuple(
        Example(messages=(("user", row["messages"][0]["content"]),), completion=row["completion"], group="sums")
        for row in rows
    )
    good = write_pairs(tmp_path / "good", step_towards(bench.base, examples), base_model_name_or_path="tiny")
    noise = write_pairs(tmp_path / "noise", random_pairs(9, RANK, SHAPES), lora_alpha=2, base_model_name_or_path="tiny")
    told: list[tuple[int, int]] = []
    spec = spec_of(
        tmp_path / "out",
        good,
        noise,
        method=MergeMethod.CAT_LEARNED,
        learning=Learning(base_directory=bench.base, examples=examples, evaluations=24),
        limits=Limits(max_bytes=1 << 24, max_rank=64),
    )
    said = merge(spec, lambda done, total, _: told.append((done, total)), learn_weights)
    assert said.weights[0] > 0.5 and said.weights[1] < 0.25
    assert said.rank == RANK * sum(weight > 0 for weight in said.weights), "who is left out takes no rank"
    tried = [done for done, total in told if total == 24]
    assert tried == list(range(len(tried))) and told[-1] == (len(SHAPES), len(SHAPES))
    expected = {
        module: said.weights[0] * deltas(step_towards(bench.base, examples))[module]
        + said.weights[1] * deltas(random_pairs(9, RANK, SHAPES), 0.5)[module]
        for module in SHAPES
    }
    assert distance(read_deltas(tmp_path / "out"), expected) < 1e-4


def step_towards(base: Path, examples: tuple[Example, ...]) -> Pairs:
    """Minus the gradient of the examples' loss, at rank RANK: what learning would begin with."""
    import torch
    from transformers import AutoTokenizer

    from engine.evolution.merging.objective import tokenized
    from engine.training.qlora.data import Encoder
    from engine.training.qlora.loss import AnswerLoss

    model = load_base(base)
    encoder = Encoder(AutoTokenizer.from_pretrained(base, local_files_only=True))
    AnswerLoss(model, torch.device("cpu"), 0)(tokenized(examples, encoder)["sums"]).backward()
    pairs: Pairs = {}
    for module in SHAPES:
        gradient = model.get_submodule(module).weight.grad.numpy()
        u, s, vt = np.linalg.svd(gradient, full_matrices=False)
        pairs[module] = (-0.3 * u[:, :RANK] * (s[:RANK] / s[0]), np.ascontiguousarray(vt[:RANK]))
    return pairs
