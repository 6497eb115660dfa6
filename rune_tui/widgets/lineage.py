"""The evolution of the adapters as a graph of one row a node, as `git log --graph` draws history.

Newest on top, parents below their children. A list of rows, not a two-dimensional layout: selecting, scrolling and
searching are those of any list, and the width grows with concurrent branches, not with nodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from engine.api_models import AdapterRecord
from rune_tui.widgets.row import Row, Span, Tone

NODE, MERGE_NODE, ROOT_NODE, DEAD_NODE = "○", "◎", "●", "×"

UP, DOWN, LEFT, RIGHT = 1, 2, 4, 8
_GLYPHS = {
    0: " ",
    UP | DOWN: "│",
    LEFT | RIGHT: "─",
    UP | LEFT: "╯",
    UP | RIGHT: "╰",
    DOWN | LEFT: "╮",
    DOWN | RIGHT: "╭",
    UP | DOWN | LEFT: "┤",
    UP | DOWN | RIGHT: "├",
    UP | LEFT | RIGHT: "┴",
    DOWN | LEFT | RIGHT: "┬",
    UP | DOWN | LEFT | RIGHT: "┼",
}

MAX_GRAPH_WIDTH = 24
"""Cells of the graph in a pane; more branches than fit are cut, the names stay readable."""


@dataclass(frozen=True)
class Node:
    """What the graph needs of an adapter."""

    id: str
    parents: tuple[str, ...] = ()
    dead: bool = False
    """Archived or quarantined."""


@dataclass(frozen=True)
class GraphRow:
    """One node with the lines beside it."""

    id: str
    graph: str


def graph_rows(nodes: Sequence[Node]) -> list[GraphRow]:
    """The graph, children above parents; nodes should come newest first.

    Parents that are not among the nodes are left out, and so are edges of a circle, which only a damaged
    registry could hold: every node gets exactly one row, whatever the data says.
    """
    lanes: list[str | None] = []  # what each column waits for
    drawn: set[str] = set()
    known = {node.id for node in nodes}
    rows: list[GraphRow] = []
    for node in _children_first(nodes):
        drawn.add(node.id)
        parents = [parent for parent in dict.fromkeys(node.parents) if parent in known and parent not in drawn]
        rows.append(GraphRow(node.id, _row(lanes, node, parents)))
    return rows


def _children_first(nodes: Sequence[Node]) -> Iterable[Node]:
    by_id = {node.id: node for node in nodes}
    waiting = dict.fromkeys(by_id, 0)
    for node in by_id.values():
        for parent in set(node.parents) & waiting.keys():
            waiting[parent] += 1
    ordered: dict[str, Node] = {}
    ready = [node for node in reversed(by_id.values()) if not waiting[node.id]]
    rest = list(reversed(by_id.values()))
    while len(ordered) < len(by_id):
        node = ready.pop() if ready else rest.pop()
        if node.id in ordered:
            continue
        ordered[node.id] = node
        for parent in sorted(set(node.parents) & waiting.keys(), key=list(node.parents).index, reverse=True):
            waiting[parent] -= 1
            if not waiting[parent]:
                ready.append(by_id[parent])
    return ordered.values()


def _row(lanes: list[str | None], node: Node, parents: Sequence[str]) -> str:
    """Draw one node and move the lanes on."""
    ending = [index for index, target in enumerate(lanes) if target == node.id]
    before = list(lanes)
    place = ending[0] if ending else _free_lane(lanes, taken=())
    for index in ending:
        lanes[index] = None
    targets: list[int] = []
    for number, parent in enumerate(parents):
        if number == 0:
            lanes[place] = parent
            continue
        target = lanes.index(parent) if parent in lanes else _free_lane(lanes, taken=(place, *ending))
        lanes[target] = parent
        targets.append(target)
    graph = _draw(before, place, [index for index in ending if index != place], targets, _glyph(node, parents))
    while lanes and lanes[-1] is None:
        lanes.pop()
    return graph


def _free_lane(lanes: list[str | None], taken: Iterable[int]) -> int:
    for index, target in enumerate(lanes):
        if target is None and index not in taken:
            return index
    lanes.append(None)
    return len(lanes) - 1


def _glyph(node: Node, parents: Sequence[str]) -> str:
    if node.dead:
        return DEAD_NODE
    if len(parents) > 1:
        return MERGE_NODE
    return NODE if parents else ROOT_NODE


def _draw(before: Sequence[str | None], place: int, ending: Sequence[int], starting: Sequence[int], glyph: str) -> str:
    lanes = max([len(before) - 1, place, *ending, *starting]) + 1
    cells = [0] * (2 * lanes - 1)
    for index, target in enumerate(before):
        if target is not None and index != place and index not in ending:
            cells[2 * index] |= UP | DOWN
    for index in ending:
        _connect(cells, place, index, UP)
    for index in starting:
        _connect(cells, place, index, DOWN)
    text = [_GLYPHS.get(cell, "┼") for cell in cells]
    text[2 * place] = glyph
    return "".join(text).rstrip()


def _connect(cells: list[int], place: int, other: int, direction: int) -> None:
    left, right = sorted((2 * place, 2 * other))
    for cell in range(left + 1, right):
        cells[cell] |= LEFT | RIGHT
    cells[2 * other] |= direction | (LEFT if other > place else RIGHT)


def lineage_rows(adapters: Mapping[str, AdapterRecord]) -> list[Row]:
    """The pane's rows: graph, name, generation, how it came to be and how good it is."""
    newest = sorted(adapters.values(), key=lambda adapter: (adapter.created_at, adapter.id), reverse=True)
    nodes = [Node(item.id, item.parent_ids, item.is_archived or item.is_quarantined) for item in newest]
    graphs = graph_rows(nodes)
    width = min(MAX_GRAPH_WIDTH, max((len(item.graph) for item in graphs), default=0))
    return [_lineage_row(item, adapters, width) for item in graphs]


def _lineage_row(item: GraphRow, adapters: Mapping[str, AdapterRecord], width: int) -> Row:
    adapter = adapters[item.id]
    graph = item.graph if len(item.graph) <= width else item.graph[: width - 1] + "…"
    elsewhere = " (parent not listed)" if any(parent not in adapters for parent in adapter.parent_ids) else ""
    fitness = "" if adapter.fitness_score is None else f" fitness {adapter.fitness_score:.2f}"
    dead = adapter.is_archived or adapter.is_quarantined
    return Row(
        (
            Span(f" {graph:<{width}} ", Tone.ACCENT),
            Span(adapter.id, Tone.DIM if dead else Tone.PLAIN),
            Span(f"  gen {adapter.generation} {adapter.source}{fitness}{elsewhere}", Tone.DIM),
        ),
        item.id,
    )
