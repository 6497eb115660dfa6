"""Imports the packages that the sandbox shows by their directories: the directory they lie in is not readable."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import os
import sys
import types
from collections.abc import Mapping, Sequence
from typing import Any


class PackageFinder:
    """Finds top-level packages by name."""

    def __init__(self, directories: Mapping[str, str]) -> None:
        self._directories = directories

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        directory = self._directories.get(fullname)
        if directory is None:
            return None
        init = os.path.join(directory, "__init__.py")
        return importlib.util.spec_from_file_location(fullname, init, submodule_search_locations=[directory])


class LegacyPath:
    """pytest's one module outside of a package: `py`, two names that it imports for itself."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        loader: Any = self  # a loader by its methods; the abstract class costs a third of the start-up
        return importlib.machinery.ModuleSpec(fullname, loader) if fullname == "py" else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType | None:
        """An ordinary module will do."""

    def exec_module(self, module: types.ModuleType) -> None:
        for name in ("error", "path"):
            setattr(module, name, importlib.import_module(f"_pytest._py.{name}"))


def install(directories: Mapping[str, str]) -> None:
    """Make the packages importable."""
    sys.meta_path.extend((PackageFinder(directories), LegacyPath()))
