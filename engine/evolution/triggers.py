"""When adapters of a task type are archived and which are merged. Pure: says what is to be done and why.

A sweep first prunes, then looks at what is left:

    active ──fitness < prune_below, measured often enough──► archived
      │        (never the fittest, a protected one, or an ancestor of a live one)
      └──at least merge_at left──► the fittest `parents` of them are merged, unless these were merged before
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

MIN_PARENTS = 2


@dataclass(frozen=True, slots=True)
class Individual:
    """An adapter as evolution sees it."""

    id: str
    base_model: str
    fitness: float | None
    """None: not measured yet."""
    evaluations: int
    """How often it was measured."""
    parents: tuple[str, ...] = ()
    generation: int = 0


@dataclass(frozen=True, slots=True)
class Policy:
    """The numbers that the rules go by; see [evolution] of config.toml."""

    merge_at: int = 5
    parents: int = 3
    prune_below: float = 0.3
    min_evaluations: int = 1


@dataclass(frozen=True, slots=True)
class Pruning:
    """Whom to archive, children before their ancestors, and one sentence for each that is archived or spared."""

    archive: tuple[str, ...]
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Mating:
    """Whom to merge, fittest first; empty where none are, and then the reason says why."""

    parents: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Counts:
    """What a sweep did to a task type, in numbers."""

    merged: int
    pruned: int
    active: int


def prune(
    active: Sequence[Individual],
    policy: Policy,
    ancestry: Mapping[str, tuple[str, ...]],
    protected: Collection[str] = (),
) -> Pruning:
    """Whom of the active adapters of one task type to archive.

    Args:
        active: of the type, none archived.
        policy: the rules.
        ancestry: id -> ids of its parents, of every adapter, archived ones too: a line may lead through them.
        protected: ids that an alias names, which are in use.
    """
    live = {individual.id for individual in active}
    best = _ranked(active)[:1]
    archive: list[str] = []
    reasons: list[str] = []
    # Children first: when the last live descendant is archived, its ancestor need not be kept for it.
    for individual in sorted(active, key=lambda one: (-one.generation, one.fitness or 0.0, one.id)):
        if not _is_unfit(individual, policy):
            continue
        if spared := _spared(individual, best, protected, _descendants(individual.id, live, ancestry)):
            reasons.append(f"{individual.id} (fitness {individual.fitness:.3f}) is kept: {spared}.")
            continue
        live.discard(individual.id)
        archive.append(individual.id)
        reasons.append(f"{individual.id} is archived: fitness {individual.fitness:.3f} < {policy.prune_below}.")
    return Pruning(tuple(archive), tuple(reasons))


def _is_unfit(individual: Individual, policy: Policy) -> bool:
    fitness = individual.fitness
    return fitness is not None and fitness < policy.prune_below and individual.evaluations >= policy.min_evaluations


def _spared(
    individual: Individual, best: Sequence[Individual], protected: Collection[str], descendants: Sequence[str]
) -> str:
    if individual in best:
        return "it is the fittest of its type"
    if individual.id in protected:
        return "an alias names it"
    return f"{descendants[0]} descends from it" if descendants else ""


def _descendants(identifier: str, live: Iterable[str], ancestry: Mapping[str, tuple[str, ...]]) -> list[str]:
    return sorted(one for one in live if one != identifier and identifier in ancestors(one, ancestry))


def ancestors(identifier: str, ancestry: Mapping[str, tuple[str, ...]]) -> frozenset[str]:
    """Parents, their parents and so on; a cycle in damaged data ends."""
    found: set[str] = set()
    waiting = list(ancestry.get(identifier, ()))
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.add(one)
            waiting.extend(ancestry.get(one, ()))
    return frozenset(found - {identifier})


def mate(active: Sequence[Individual], policy: Policy, merged_before: Collection[frozenset[str]]) -> Mating:
    """Whom of the active adapters of one task type to merge.

    Args:
        active: of the type, after pruning.
        policy: the rules.
        merged_before: sets of parents of all merges so far, whatever became of the child.
    """
    if len(active) < policy.merge_at:
        return Mating((), f"Nothing is merged: {len(active)} active adapters, {policy.merge_at} are needed.")
    ranked = _ranked(active)
    if len(ranked) < MIN_PARENTS:
        return Mating((), f"Nothing is merged: {len(ranked)} of {len(active)} have a fitness, {MIN_PARENTS} must.")
    parents = ranked[: policy.parents]
    names = tuple(parent.id for parent in parents)
    if len({parent.base_model for parent in parents}) > 1:
        bases = ", ".join(f"{parent.id} of {parent.base_model}" for parent in parents)
        return Mating((), f"Nothing is merged: the fittest are of different base models ({bases}).")
    if frozenset(names) in merged_before:
        return Mating((), f"Nothing is merged: {', '.join(names)} were merged before.")
    return Mating(names, f"{', '.join(names)} are the fittest {len(names)} of {len(active)}.")


def _ranked(individuals: Iterable[Individual]) -> list[Individual]:
    """Those with a fitness, fittest first; equal ones by id, so that the same population always gives the same."""
    measured = [(one.fitness, one) for one in individuals if one.fitness is not None]
    return [one for _, one in sorted(measured, key=lambda item: (-item[0], item[1].id))]


def counts(before: int, pruned: int, merged: int) -> Counts:
    """The summary of one task type: active is what was, minus pruned, plus merged."""
    return Counts(merged=merged, pruned=pruned, active=before - pruned + merged)
