"""What depends on what: layers of subtasks, and what finished ones offer to those that need them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from engine.errors import DependencyCycleError
from engine.pipeline.interfaces import extract_interface


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


@dataclass(frozen=True)
class Artifact:
    """A finished subtask."""

    name: str
    code: str
    interfaces: str
    tests_passed: bool
    dependencies: tuple[str, ...] = ()


class Blackboard:
    """Artifacts by subtask name: plain data, so that it is rebuilt from a checkpoint.

    A subtask reads it only before its layer starts, and a layer publishes only when it is over: so what a subtask sees
    does not hang on which of its siblings was faster.
    """

    def __init__(self, dependencies: Mapping[str, Sequence[str]]) -> None:
        self._dependencies = dependencies
        self._artifacts: dict[str, Artifact] = {}

    def publish(self, name: str, code: str, *, tests_passed: bool) -> Artifact:
        """Offer `code`; the interface is taken from its syntax tree. A later one of the same name replaces it."""
        needs = tuple(self._dependencies.get(name, ()))
        artifact = Artifact(name, code, extract_interface(code), tests_passed, needs)
        self._artifacts[name] = artifact
        return artifact

    def get(self, name: str) -> Artifact | None:
        """The artifact of that subtask, if it has published."""
        return self._artifacts.get(name)

    def dependency_interfaces(self, subtask: str) -> str:
        """Interfaces of what `subtask` depends on directly."""
        return _render(self._artifacts[name] for name in self._dependencies.get(subtask, ()) if name in self._artifacts)

    def all_interfaces(self) -> str:
        """Interfaces of everything published, in order of publication."""
        return _render(self._artifacts.values())


def _render(artifacts: Iterable[Artifact]) -> str:
    return "\n\n".join(
        f"# {artifact.name} ({'tests passed' if artifact.tests_passed else 'tests FAILED'})\n{artifact.interfaces}"
        for artifact in artifacts
    )
