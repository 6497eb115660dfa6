"""`rune-tui merge`: what its options ask for, and what it prints."""

from __future__ import annotations

from typing import Any

import pytest
from click.testing import CliRunner

from engine.api_evolution import MergeMethod, MergeReport, MergeSpace, SignRule
from engine.errors import InputError
from rune_tui.commands.merge import command, read_request, show_report

OPTIONS: dict[str, Any] = {
    "adapters": ("a", "b"),
    "method": "ties",
    "adapter_id": None,
    "task_type": None,
    "weights": None,
    "density": 0.5,
    "rank": None,
    "space": "core",
    "sign": "count",
    "suite": None,
    "seed": 0,
}


def test_the_options_make_the_request() -> None:
    changed: dict[str, Any] = {"weights": "1, -0.5", "method": "dare-ties", "space": "delta", "rank": 8}
    request = read_request(OPTIONS | changed)
    assert (request.adapters, request.weights, request.rank) == (("a", "b"), (1.0, -0.5), 8)
    assert (request.method, request.space, request.sign) == (MergeMethod.DARE_TIES, MergeSpace.DELTA, SignRule.COUNT)
    assert read_request(OPTIONS).weights == ()


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"weights": "1"}, "--weights has 1 values for 2 adapters"),
        ({"weights": "1,x"}, "--weights 'x'"),
        ({"density": 1.5}, "--density 1.5"),
        ({"rank": 0}, "--rank 0"),
        ({"adapters": ("a", "../b")}, "adapter '../b'"),
        ({"adapters": tuple(f"a{n}" for n in range(65))}, "At most 64 adapters are merged at once"),
    ],
)
def test_what_is_not_valid_is_said_by_its_option(changed: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError) as refused:
        read_request(OPTIONS | changed)
    assert reason in str(refused.value)


def test_a_report_says_what_the_rank_keeps_and_how_near_each_parent_is(capsys: pytest.CaptureFixture[str]) -> None:
    report = MergeReport(
        adapter_id="child",
        digest="0123456789abcdef",
        method=MergeMethod.TIES,
        space=MergeSpace.CORE,
        rank=16,
        retained_energy=0.8768,
        weights=(0.5, 0.5),
        parent_cosines={"a": 0.7, "b": -0.1},
        modules=210,
        seconds=3.21,
        peak_mib=400,
    )
    show_report(report.model_dump(mode="json"))
    said = capsys.readouterr().out
    assert "child (0123456789ab): ties in core space, rank 16 keeps 87.7% of 210 modules' merged delta" in said
    assert "a        0.500   +0.700" in said and "b        0.500   -0.100" in said
    assert "3.2 s, 400 MiB" in said


def test_its_help_names_every_method() -> None:
    said = CliRunner().invoke(command, ["--help"]).output
    assert all(method.value in said for method in MergeMethod)
