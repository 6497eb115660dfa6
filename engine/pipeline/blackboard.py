"""What finished subtasks offer to those that depend on them. Plain data, so that it is rebuilt from a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from engine.pipeline.interfaces import extract_interface


@dataclass(frozen=True)
class Artifact:
    """A finished subtask."""

    name: str
    code: str
    interfaces: str
    tests_passed: bool
    dependencies: tuple[str, ...] = ()


class Blackboard:
    """Artifacts by subtask name.

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
