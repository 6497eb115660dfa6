"""Dependency layers of subtasks: what can be written side by side, and where the dependencies run in a circle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from engine.errors import DependencyCycleError


def layers(dependencies: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """Topological layers, each in the order given: every subtask comes after all it depends on.

    Args:
        dependencies: name -> names it needs; names that are not keys are ignored.

    Raises:
        DependencyCycleError: names the circle; a subtask that needs itself is one.
    """
    waiting = {name: {need for need in needs if need in dependencies} for name, needs in dependencies.items()}
    result: list[list[str]] = []
    while waiting:
        ready = [name for name, needs in waiting.items() if not needs & waiting.keys()]
        if not ready:
            circle = " -> ".join(_circle(waiting))
            raise DependencyCycleError(f"The subtasks depend on each other in a circle: {circle}.")
        result.append(ready)
        for name in ready:
            del waiting[name]
    return result


def _circle(waiting: Mapping[str, set[str]]) -> list[str]:
    """One circle among subtasks that all still wait, its first name repeated at the end.

    Every one of them waits for another of them, so following any dependency must come back somewhere.
    """
    path = [next(iter(waiting))]
    while True:
        step = min(waiting[path[-1]] & waiting.keys())
        if step in path:
            return [*path[path.index(step) :], step]
        path.append(step)
