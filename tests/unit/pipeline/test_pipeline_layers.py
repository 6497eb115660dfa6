"""A12: dependency layers, circles, and what a layer sees of the ones before."""

from __future__ import annotations

import pytest

from engine.errors import DependencyCycleError
from engine.pipeline.dependencies import Blackboard, layers
from engine.pipeline.interfaces import extract_interface, extract_skeleton

DIAMOND = {"top": ["left", "right"], "left": ["base"], "right": ["base"], "base": []}


def test_a12_a_diamond_has_three_layers_with_two_in_the_middle() -> None:
    assert layers(DIAMOND) == [["base"], ["left", "right"], ["top"]]


def test_a12_a_self_cycle_is_detected_and_named() -> None:
    with pytest.raises(DependencyCycleError, match="a -> a"):
        layers({"a": ["a"], "b": []})


def test_a12_a_longer_circle_is_named_without_what_merely_waits_for_it() -> None:
    with pytest.raises(DependencyCycleError, match=r"circle: b -> c -> d -> b\."):
        layers({"a": ["b"], "b": ["c"], "c": ["d"], "d": ["b"], "e": []})


def test_unknown_dependencies_are_ignored() -> None:
    assert layers({"a": ["ghost"], "b": ["a"]}) == [["a"], ["b"]]
    assert layers({}) == []


def test_blackboard_gives_interfaces_of_direct_dependencies_and_whether_they_pass() -> None:
    board = Blackboard(DIAMOND)
    board.publish("base", "def base(x: int) -> int:\n    return x", tests_passed=True)
    assert board.dependency_interfaces("top") == ""
    board.publish("left", "def left(): ...", tests_passed=False)
    assert board.dependency_interfaces("left") == "# base (tests passed)\ndef base(x: int) -> int:\n    ..."
    assert "left (tests FAILED)" in board.dependency_interfaces("top")
    assert "base" not in board.dependency_interfaces("top")
    assert "base" in board.all_interfaces()
    assert "left" in board.all_interfaces()
    artifact = board.get("left")
    assert artifact is not None
    assert artifact.dependencies == ("base",)
    assert board.get("right") is None


SOURCE = '''
import os
from a import (b,
               c)

Pair = tuple[int, int]
LIMIT = 3
count: int = 0

@dataclass(frozen=True)
class Point(Base):
    """A point.

    With more to say."""
    x: int = 0
    kind = "flat"

    def __init__(self,
                 x: int, *,
                 y: str = ":") -> None:
        self.x = x
        if y:
            raise ValueError("bad: y")

    async def load(self, path): return path

async def fetch(url: str) -> bytes:
    "Fetches."
    for part in url:
        return part
'''


def test_interface_by_syntax_tree_has_signatures_and_no_bodies() -> None:
    interface = extract_interface(SOURCE)
    for line in (
        "import os",
        "from a import b, c",
        "Pair = tuple[int, int]",
        "count: int = 0",
        "@dataclass(frozen=True)",
        "class Point(Base):",
        '    """A point."""',
        "    x: int = 0",
        "    kind = 'flat'",
        "    def __init__(self, x: int, *, y: str=':') -> None:",
        "    async def load(self, path):",
        "async def fetch(url: str) -> bytes:",
        '    """Fetches."""',
    ):
        assert line in interface.splitlines(), line
    assert "return" not in interface
    assert "self.x" not in interface
    assert "LIMIT" not in interface
    assert "With more" not in interface


def test_skeleton_also_has_return_raise_and_attribute_lines() -> None:
    lines = extract_skeleton(SOURCE).splitlines()
    assert "        self.x = x" in lines
    assert "        raise ValueError('bad: y')" in lines
    assert "    return part" in lines
    assert "@dataclass(frozen=True)" in lines


@pytest.mark.parametrize(("extract", "limit"), [(extract_interface, 60), (extract_skeleton, 80)])
def test_interface_has_at_most_60_lines_and_skeleton_80(extract: object, limit: int) -> None:
    assert callable(extract)
    exact = "\n".join(f"import module_{number}" for number in range(limit))
    assert extract(exact) == exact
    assert extract(exact + "\nimport one_more") == exact


def test_code_that_does_not_parse_is_read_line_by_line() -> None:
    broken = "import os\nclass A:\n    def f(self):\n        return (\nx ="
    assert extract_interface(broken) == "import os\nclass A:\n    def f(self):"


def test_an_expression_that_is_nested_too_deep_falls_back() -> None:
    deep = "x: int = " + "+".join(["1"] * 3000) + "\ndef f(): pass"
    assert "def f()" in extract_interface(deep)
