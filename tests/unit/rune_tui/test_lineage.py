"""The lineage graph, as pictures."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fake_engine import adapter

from rune_tui.widgets.lineage import Node, graph_rows, lineage_rows

PICTURES = {
    "nothing": ("", ""),
    "one": ("a", "● a"),
    "a line": ("c:b b:a a", "○ c\n○ b\n● a"),
    "a fork": ("c:a b:a a", "○ c\n│ ○ b\n●─╯ a"),
    "a merge": ("e:cd d:b c:b b:a a", "◎─╮ e\n○ │ c\n│ ○ d\n○─╯ b\n● a"),
    "three parents": ("m:xyz x:r y:r z:r r", "◎─┬─╮ m\n○ │ │ x\n│ ○ │ y\n│ │ ○ z\n●─┴─╯ r"),
    "two families": ("b:a a d:c c", "○ b\n● a\n○ d\n● c"),
    "a merge across": ("t:a u:b v:ab b:r a:r r", "○ t\n│ ○ u\n│ ├─◎ v\n○─┼─╯ a\n│ ○ b\n●─╯ r"),
    "a merge to the left": (
        "f:e g:d e:d h:cd d:c c",
        "○ f\n○ e\n│ ○ g\n├─┼─◎ h\n○─╯ │ d\n●───╯ c",
    ),
    "an unknown parent": ("b:z", "● b"),
    "its own parent": ("a:a", "● a"),
    "a circle": ("a:b b:a", "○ a\n● b"),
}


def nodes(text: str) -> list[Node]:
    parts = [item.partition(":") for item in text.split()]
    return [Node(name, tuple(parents)) for name, _, parents in parts]


@pytest.mark.parametrize("name", PICTURES)
def test_picture(name: str) -> None:
    source, picture = PICTURES[name]
    assert "\n".join(f"{row.graph} {row.id}" for row in graph_rows(nodes(source))) == picture


@given(st.lists(st.tuples(st.integers(0, 15), st.lists(st.integers(0, 15), max_size=4)), max_size=16))
def test_any_graph_gives_each_node_one_row(edges: list[tuple[int, list[int]]]) -> None:
    """Circles and missing parents too; children stand above their parents where there is no circle."""
    found = {str(name): Node(str(name), tuple(str(parent) for parent in parents)) for name, parents in edges}
    rows = graph_rows(list(found.values()))
    assert sorted(row.id for row in rows) == sorted(found)
    if all(int(parent) < int(node.id) for node in found.values() for parent in node.parents):
        places = {row.id: index for index, row in enumerate(rows)}
        for node in found.values():
            assert all(places[node.id] < places[parent] for parent in node.parents if parent in places)


def test_a_thousand_nodes_are_quick() -> None:
    """Measured at 73 us a row for the best library known; a screen's budget is 100 ms."""
    chance = random.Random(1)
    graph = [
        Node(str(index), tuple(str(chance.randrange(max(0, index - 12), index)) for _ in range(1 + (index % 5 == 0))))
        for index in range(1, 1001)
    ]
    start = time.process_time()
    assert len(graph_rows(list(reversed(graph)))) == 1000
    assert time.process_time() - start < 0.5


def test_rows_say_generation_and_what_is_missing() -> None:
    rows = lineage_rows({"b": adapter("b", parent_ids=("gone",), generation=2, is_archived=True)})
    assert "".join(span.text for span in rows[0].spans) == " × b  gen 2 imported fitness 0.71 (parent not listed)"
    assert rows[0].key == "b"
