"""A60: when adapters are merged and archived."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.evolution.triggers import Counts, Individual, Policy, ancestors, counts, mate, prune

POLICY = Policy()


def _one(
    identifier: str, fitness: float | None, *parents: str, generation: int = 0, evaluations: int = 1
) -> Individual:
    return Individual(identifier, "tiny", fitness, evaluations, parents, generation)


def _line(individuals: Sequence[Individual]) -> dict[str, tuple[str, ...]]:
    return {one.id: one.parents for one in individuals}


def _archived(individuals: Sequence[Individual], *protected: str, policy: Policy = POLICY) -> tuple[str, ...]:
    return prune(individuals, policy, _line(individuals), protected).archive


# --- merging -------------------------------------------------------------------------------------------------


def test_a60_merge_triggers_at_exactly_five() -> None:
    population = [_one(f"a{i}", 0.5 + i / 100) for i in range(5)]
    assert mate(population[:4], POLICY, ()).parents == ()
    assert "4 active adapters, 5 are needed" in mate(population[:4], POLICY, ()).reason
    assert mate(population, POLICY, ()).parents == ("a4", "a3", "a2")


def test_a60_an_unmeasured_adapter_counts_but_is_never_a_parent() -> None:
    population = [_one("x", None), _one("y", None), _one("z", None), _one("a", 0.4), _one("b", 0.5)]
    assert mate(population, POLICY, ()).parents == ("b", "a")
    lonely = [*population[:4], _one("b", None)]
    assert mate(lonely, POLICY, ()).parents == ()
    assert "1 of 5 have a fitness" in mate(lonely, POLICY, ()).reason


def test_a61_the_same_parents_are_never_merged_twice() -> None:
    population = [_one(f"a{i}", 0.5 + i / 100) for i in range(5)]
    again = mate(population, POLICY, {frozenset({"a2", "a3", "a4"})})
    assert again.parents == ()
    assert "were merged before" in again.reason
    assert mate(population, POLICY, {frozenset({"a2", "a3"})}).parents


def test_a62_parents_of_different_bases_are_refused_with_the_reason() -> None:
    population = [_one(f"a{i}", 0.5) for i in range(4)] + [Individual("other", "large", 0.9, 1)]
    found = mate(population, POLICY, ())
    assert found.parents == ()
    assert "other of large" in found.reason


def test_equal_fitness_is_told_apart_by_id_whatever_the_order() -> None:
    population = [_one(f"a{i}", 0.5) for i in range(6)]
    assert mate(population, POLICY, ()).parents == mate(population[::-1], POLICY, ()).parents == ("a0", "a1", "a2")


# --- pruning -------------------------------------------------------------------------------------------------


def test_a60_prune_is_strictly_below() -> None:
    assert _archived([_one("good", 0.9), _one("at", 0.3), _one("below", 0.2999), _one("new", None)]) == ("below",)


def test_pruning_waits_for_enough_evaluations() -> None:
    population = [_one("good", 0.9, evaluations=9), _one("a", 0.1, evaluations=2), _one("b", 0.1, evaluations=3)]
    assert _archived(population, policy=Policy(min_evaluations=3)) == ("b",)


def test_the_last_good_one_is_never_archived() -> None:
    found = prune([_one("a", 0.1), _one("b", 0.2), _one("c", None)], POLICY, {}, ())
    assert found.archive == ("a",)
    assert any("b" in reason and "fittest" in reason for reason in found.reasons)


def test_what_an_alias_names_is_never_archived() -> None:
    assert _archived([_one("good", 0.9), _one("champion", 0.1)], "champion") == ()


def test_an_ancestor_of_a_live_one_is_never_archived() -> None:
    grandparent, good = _one("old", 0.1), _one("child", 0.9, "middle", generation=2)
    line = {"child": ("middle",), "middle": ("old",), "old": ()}  # the middle one is archived already
    assert prune([grandparent, good], POLICY, line).archive == ()
    assert "child descends from it" in prune([grandparent, good], POLICY, line).reasons[0]


def test_an_ancestor_goes_with_its_last_descendant_in_one_sweep() -> None:
    population = [_one("parent", 0.1), _one("child", 0.05, "parent", generation=1), _one("good", 0.9)]
    assert _archived(population) == ("child", "parent")


def test_a_cycle_in_damaged_data_ends() -> None:
    assert ancestors("a", {"a": ("b",), "b": ("c",), "c": ("a", "missing")}) == {"b", "c", "missing"}


def test_a60_summary_counts() -> None:
    assert counts(before=7, pruned=2, merged=1) == Counts(merged=1, pruned=2, active=6)


@st.composite
def _populations(draw: st.DrawFn) -> list[Individual]:
    size = draw(st.integers(0, 12))
    return [
        _one(
            f"a{i}",
            draw(st.none() | st.floats(0, 1)),
            *draw(
                st.lists(st.sampled_from([f"a{j}" for j in range(i)]), max_size=2, unique=True) if i else st.just([])
            ),
            generation=i,
        )
        for i in range(size)
    ]


@given(_populations(), st.sets(st.sampled_from([f"a{i}" for i in range(12)])))
def test_pruning_never_breaks_its_promises(population: list[Individual], protected: set[str]) -> None:
    line = _line(population)
    archive = set(prune(population, POLICY, line, protected).archive)
    live = [one for one in population if one.id not in archive]
    measured = [one for one in population if one.fitness is not None]
    assert not archive & protected
    assert all(not archive & ancestors(one.id, line) for one in live)
    assert all(one.fitness is not None and one.fitness < 0.3 for one in population if one.id in archive)
    assert not measured or any(one.fitness is not None for one in live)
    reversed_order = prune(population[::-1], POLICY, line, protected)
    assert set(reversed_order.archive) == archive


def test_the_properties_would_catch_a_prune_without_rules() -> None:
    """Negative control: archiving everything unfit breaks the line of a live adapter."""
    population = [_one("old", 0.1), _one("child", 0.9, "old", generation=1)]
    naive = {one.id for one in population if (one.fitness or 0) < 0.3}
    assert naive & ancestors("child", _line(population))
    with pytest.raises(AssertionError):
        assert naive == set(_archived(population))
