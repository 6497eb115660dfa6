"""What is asked of the adapter rows. Every function takes a `Reader` and runs inside one `Database.read`."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, cast

from registry.db import Reader, Row
from registry.errors import AdapterNotFound, AdapterRejected
from registry.models import Adapter, Champions, Evaluation, Promotion, Source, Tier, alias_of

MAX_PAGE = 500
"""Rows of one page; no screen shows more, and a page stays below 10 ms."""
MAX_LINEAGE = 10_000
"""Adapters in one lineage answer; a thousand generations of eight stay below it."""
MAX_SEARCH = 100
"""Characters of a search; an id has no more."""

_SELECT = """
SELECT adapters.*, (
    SELECT json_group_array(parent_id)
    FROM (SELECT parent_id FROM adapter_parents WHERE child_id = adapters.id ORDER BY position)
) AS parent_ids
FROM adapters
"""

_ITS_CHANGE = """
LEFT JOIN registry_changes ON registry_changes.number = change WHERE (change IS NULL OR state = 'done')
"""


class Sort(StrEnum):
    """What a page is sorted by; the id decides between equals."""

    CREATED = "created"
    FITNESS = "fitness"
    """Adapters without a score count as the lowest."""
    ID = "id"


_SORT_KEY: Mapping[Sort, str] = {
    Sort.CREATED: "created_at",
    Sort.FITNESS: "ifnull(fitness_score, -1.0)",
    Sort.ID: "id",
}


@dataclass(frozen=True, slots=True)
class AdapterQuery:
    """Which adapters to list. None in a filter means any."""

    task_type: str | None = None
    tier: Tier | None = None
    source: Source | None = None
    archived: bool | None = False
    search: str = ""
    """Part of an id, in any case."""
    sort: Sort = Sort.CREATED
    descending: bool = True
    limit: int = 50
    after: str | None = None
    """`Page.next` of the page before: paging stays exact while adapters are added."""


@dataclass(frozen=True, slots=True)
class Page:
    """Some adapters, and where to go on; `next` is None on the last page."""

    items: tuple[Adapter, ...]
    next: str | None


@dataclass(frozen=True, slots=True)
class LineageDag:
    """Ancestors and descendants of `root`, each in breadth-first order from it.

    `parents` has an entry for the root and for every ancestor; one without parents, or missing from the registry,
    is a leaf with an empty tuple. `children` likewise for the descendants.
    """

    root: str
    parents: Mapping[str, tuple[str, ...]]
    children: Mapping[str, tuple[str, ...]]


def find(reader: Reader, adapter_id: str) -> Adapter | None:
    """The adapter of that id, or None."""
    row = reader.execute(f"{_SELECT} WHERE id = ?", (adapter_id,)).fetchone()
    return None if row is None else to_adapter(row)


def get(reader: Reader, adapter_id: str) -> Adapter:
    """The adapter of that id.

    Raises:
        AdapterNotFound: there is none.
    """
    found = find(reader, adapter_id)
    if found is None:
        raise AdapterNotFound(f"there is no adapter {adapter_id[:100]!r}; list the adapters and pick one")
    return found


def of_task_type(reader: Reader, task_type: str) -> list[Adapter]:
    """Every adapter of a task type, archived ones included, newest first."""
    rows = reader.execute(f"{_SELECT} WHERE task_type = ? ORDER BY created_at DESC, id DESC", (task_type,))
    return [to_adapter(row) for row in rows]


def of_digest(reader: Reader, digest: str) -> list[Adapter]:
    """Every adapter whose files are that blob."""
    return [to_adapter(row) for row in reader.execute(f"{_SELECT} WHERE digest = ? ORDER BY id", (digest,))]


def page(reader: Reader, query: AdapterQuery) -> Page:
    """One page of adapters.

    Raises:
        AdapterRejected: the limit, the search or the place to go on from is not valid.
    """
    if not 1 <= query.limit <= MAX_PAGE:
        raise AdapterRejected(f"a page has 1 to {MAX_PAGE} adapters")
    where, values = _filter(query)
    key, direction = _SORT_KEY[query.sort], "DESC" if query.descending else "ASC"
    index = f"adapters_{_main_filter(query)}by_{query.sort}"
    if query.after is not None:
        # Not a row value: on an index of an expression SQLite seeks only by a plain comparison, and walks otherwise.
        side = "<" if query.descending else ">"
        where.append(f"{key} {side}= ? AND ({key} {side} ? OR id {side} ?)")
        last, last_id = _read_place(query.after, query.sort)
        values.extend((last, last, last_id))
    condition = f"WHERE {' AND '.join(where)}" if where else ""
    rows = reader.execute(
        f"{_SELECT} INDEXED BY {index} {condition} ORDER BY {key} {direction}, id {direction} LIMIT ?",
        (*values, query.limit + 1),
    ).fetchall()
    items = tuple(to_adapter(row) for row in rows[: query.limit])
    return Page(items, _place(items[-1], query.sort) if len(rows) > query.limit else None)


def count(reader: Reader, query: AdapterQuery) -> int:
    """How many adapters the query's filters leave, on all pages together."""
    where, values = _filter(query)
    condition = f"WHERE {' AND '.join(where)}" if where else ""
    return int(reader.execute(f"SELECT count(*) FROM adapters {condition}", values).fetchone()[0])


def best_for_task(reader: Reader, task_type: str, top_k: int) -> list[Adapter]:
    """The fittest adapters that may be served for a task type, best first."""
    rows = reader.execute(
        f"{_SELECT} WHERE task_type = ? AND is_archived = 0 AND is_quarantined = 0 AND fitness_score IS NOT NULL "
        "ORDER BY ifnull(fitness_score, -1.0) DESC, id DESC LIMIT ?",
        (task_type, max(0, top_k)),
    )
    return [to_adapter(row) for row in rows]


def is_task_solved(reader: Reader, task_hash: str, threshold: float) -> bool:
    """Whether an adapter that may be served was trained on the task and passes at least that share of it."""
    row = reader.execute(
        "SELECT 1 FROM adapters WHERE training_task_hash = ? AND pass_rate >= ? "
        "AND is_archived = 0 AND is_quarantined = 0 LIMIT 1",
        (task_hash, threshold),
    ).fetchone()
    return row is not None


def unevaluated(reader: Reader, task_type: str | None) -> list[Adapter]:
    """Adapters in use that have no score yet, oldest first."""
    rows = reader.execute(
        f"{_SELECT} WHERE fitness_score IS NULL AND is_archived = 0 AND (? IS NULL OR task_type = ?) "
        "ORDER BY created_at, id",
        (task_type, task_type),
    )
    return [to_adapter(row) for row in rows]


def task_types(reader: Reader) -> list[str]:
    """Every task type that some adapter has, sorted."""
    return [str(row[0]) for row in reader.execute("SELECT DISTINCT task_type FROM adapters ORDER BY task_type")]


def evaluations(reader: Reader, adapter_id: str) -> list[Evaluation]:
    """Every score an adapter was given and keeps, oldest first; those whose change was undone are left out."""
    rows = reader.execute(
        "SELECT adapter_id, fitness_score, pass_rate, session_id, adapter_evaluations.recorded_at "
        f"FROM adapter_evaluations {_ITS_CHANGE} AND adapter_id = ? ORDER BY adapter_evaluations.number",
        (adapter_id,),
    )
    return [Evaluation(*row) for row in rows]


def promotions(reader: Reader, adapter_id: str) -> list[Promotion]:
    """Every move of an adapter between tiers, oldest first; those whose change was undone are left out."""
    rows = reader.execute(
        "SELECT adapter_id, from_tier, to_tier, reason, adapter_promotions.recorded_at, evidence, "
        f"adapter_promotions.forced FROM adapter_promotions {_ITS_CHANGE} AND adapter_id = ? "
        "ORDER BY adapter_promotions.number",
        (adapter_id,),
    )
    return [_promotion(row) for row in rows]


def aliases(reader: Reader) -> dict[str, str]:
    """Adapter id by alias."""
    return {str(row[0]): str(row[1]) for row in reader.execute("SELECT name, adapter_id FROM adapter_aliases")}


def champions(reader: Reader, task_type: str) -> Champions:
    """Whom the aliases of a task type name."""
    present = aliases(reader)
    roles = ("champion", "challenger", "previous")
    return Champions(**{role: present.get(alias_of(task_type, role)) for role in roles})


def lineage(reader: Reader, adapter_id: str) -> list[Adapter]:
    """The adapter, its first parent, that one's first parent, and so on; ends at a root, a gap or a circle."""
    get(reader, adapter_id)
    # UNION drops an id that came before, which ends a circle; the queue of a recursive query is first in, first out.
    rows = reader.execute(
        "WITH RECURSIVE chain (member) AS (SELECT ? UNION "
        "SELECT parent_id FROM chain JOIN adapter_parents ON child_id = member AND position = 0 LIMIT ?) "
        f"{_SELECT.replace('FROM adapters', 'FROM chain CROSS JOIN adapters ON adapters.id = chain.member')}",
        (adapter_id, MAX_LINEAGE),
    )
    return [to_adapter(row) for row in rows]


def lineage_dag(reader: Reader, adapter_id: str) -> LineageDag:
    """All ancestors and all descendants, in one query.

    Raises:
        AdapterNotFound: there is no such adapter.
    """
    get(reader, adapter_id)
    rows = reader.execute(
        "WITH RECURSIVE "
        "up (id) AS (SELECT ?1 UNION SELECT parent_id FROM up JOIN adapter_parents ON child_id = id LIMIT ?2), "
        "down (id) AS (SELECT ?1 UNION SELECT child_id FROM down JOIN adapter_parents ON parent_id = id LIMIT ?2) "
        "SELECT 'up', id, parent_id FROM up LEFT JOIN adapter_parents ON child_id = id "
        "UNION ALL "
        "SELECT 'down', id, child_id FROM down LEFT JOIN adapter_parents ON parent_id = id",
        (adapter_id, MAX_LINEAGE),
    ).fetchall()
    sides: dict[str, dict[str, tuple[str, ...]]] = {"up": {}, "down": {}}
    for side, member, neighbour in rows:
        known = sides[side].get(member, ())
        sides[side][member] = known if neighbour is None else (*known, neighbour)
    return LineageDag(adapter_id, sides["up"], sides["down"])


def to_adapter(row: Row) -> Adapter:
    """A row of `_SELECT` as an `Adapter`."""
    values: dict[str, Any] = dict(zip(row.keys(), row, strict=True))
    values |= {
        "file_path": row["digest"],
        "target_modules": tuple(json.loads(row["target_modules"])),
        "parent_ids": tuple(json.loads(row["parent_ids"])),
        "tier": Tier(row["tier"]),
        "source": Source(row["source"]),
        "is_archived": bool(row["is_archived"]),
        "is_quarantined": bool(row["is_quarantined"]),
    }
    return Adapter(**values)


def _promotion(row: Row) -> Promotion:
    evidence = None if row["evidence"] is None else cast("dict[str, object]", json.loads(row["evidence"]))
    return Promotion(
        adapter_id=row["adapter_id"],
        from_tier=Tier(row["from_tier"]),
        to_tier=Tier(row["to_tier"]),
        reason=row["reason"],
        recorded_at=row["recorded_at"],
        evidence=evidence,
        forced=bool(row["forced"]),
    )


def _main_filter(query: AdapterQuery) -> str:
    """The filter that the index begins with: the most selective one; SQLite, without statistics, guesses worse."""
    for name, wanted in (("task_", query.task_type), ("tier_", query.tier), ("source_", query.source)):
        if wanted is not None:
            return name
    return ""


def _filter(query: AdapterQuery) -> tuple[list[str], list[object]]:
    where: list[str] = []
    values: list[object] = []
    for column, wanted in (("task_type", query.task_type), ("tier", query.tier), ("source", query.source)):
        if wanted is not None:
            where.append(f"{column} = ?")
            values.append(wanted)
    if query.archived is not None:
        where.append("is_archived = ?")
        values.append(int(query.archived))
    if query.search:
        if len(query.search) > MAX_SEARCH:
            raise AdapterRejected(f"a search has at most {MAX_SEARCH} characters")
        literal = "".join(f"\\{letter}" if letter in "\\%_" else letter for letter in query.search)
        where.append("id LIKE ? ESCAPE '\\'")
        values.append(f"%{literal}%")
    return where, values


def _place(last: Adapter, sort: Sort) -> str:
    key: object = last.id
    match sort:
        case Sort.CREATED:
            key = last.created_at
        case Sort.FITNESS:
            key = -1.0 if last.fitness_score is None else last.fitness_score
        case Sort.ID:
            pass
    return base64.urlsafe_b64encode(json.dumps([key, last.id]).encode()).decode()


def _read_place(text: str, sort: Sort) -> tuple[object, str]:
    kind = float if sort is Sort.FITNESS else str
    try:
        value: object = json.loads(base64.urlsafe_b64decode(text.encode()))
    except (binascii.Error, ValueError, RecursionError) as error:
        raise AdapterRejected("the place to go on from is not one that a page gave") from error
    parts = cast("list[object]", value) if isinstance(value, list) else []
    if len(parts) != 2 or not isinstance(parts[0], kind) or not isinstance(parts[1], str):
        raise AdapterRejected("the place to go on from is not one that a page of this order gave")
    return parts[0], parts[1]
