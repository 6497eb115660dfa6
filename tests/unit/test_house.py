"""The house rules that a machine can check: style, types, the dependency rule, sizes."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.workers import COMPUTE, LONG, piece_of

ROOT = Path(__file__).parents[2]
PACKAGES = ("rune_tui", "engine", "registry")
MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 50


def sources() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def too_long(source: str) -> list[str]:
    """Names of the functions over the limit, and `module` when the whole is."""
    found = ["module"] if source.count("\n") > MAX_MODULE_LINES else []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > MAX_FUNCTION_LINES:
                found.append(node.name)
    return found


def run_tool(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name(arguments[0])
    return subprocess.run(
        [str(program), *arguments[1:]], cwd=ROOT, capture_output=True, text=True, timeout=800, check=False
    )


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "command",
    [
        ("ruff", "check", "."),
        ("ruff", "format", "--check", "."),
        ("lint-imports", "--no-cache"),
        ("basedpyright", *PACKAGES),
    ],
    ids=lambda command: command[0] + "-" + command[1],
)
def test_tool_finds_nothing(command: tuple[str, ...]) -> None:
    done = run_tool(*command)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


def test_import_contracts_catch_a_planted_breach(tmp_path: Path) -> None:
    """The dependency rule has teeth: a registry that imports the engine breaks it."""
    for package in PACKAGES:
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("")
    (tmp_path / "registry" / "__init__.py").write_text("import engine\n")
    layers = '[tool.importlinter]\nroot_packages = ["rune_tui", "engine", "registry"]\n'
    layers += '[[tool.importlinter.contracts]]\nname = "layers"\ntype = "layers"\n'
    layers += 'layers = ["rune_tui", "engine", "registry"]\n'
    (tmp_path / "pyproject.toml").write_text(layers)
    program = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [str(program), "--no-cache"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 1, done.stdout
    assert "registry is not allowed to import engine" in done.stdout


def test_modules_and_functions_stay_short() -> None:
    long = {str(path.relative_to(ROOT)): names for path in sources() if (names := too_long(path.read_text()))}
    assert long == {}


USES_A_MODEL = re.compile(
    r"mark\.model|shared_weights\(|LLAMACPP\), id=|RUNE_VLLM_PYTHON|support\.transformers_facts"
    r"|^ +(import torch$|from (torch|peft|transformers) import)", re.MULTILINE
)  # fmt: skip


def test_files_that_compute_with_a_model_are_shared_out_as_one_piece() -> None:
    """Two of them at once would hold twice the memory and wait for the same cores."""
    tests = {str(path.relative_to(ROOT)): path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}
    assert {*COMPUTE, *LONG} <= tests.keys(), "a file was renamed"
    assert len({*COMPUTE, *LONG}) == len(COMPUTE) + len(LONG)
    found = {name for name, source in tests.items() if USES_A_MODEL.search(source)} - {"tests/unit/test_house.py"}
    assert found == set(COMPUTE)
    assert {piece_of(f"{name}::test_x[a::b]") for name in COMPUTE} == {"compute"}
    assert piece_of("tests/unit/test_house.py::test_x") == "tests/unit/test_house.py"


def test_the_length_check_sees_a_long_function() -> None:
    body = "    x = 1\n" * MAX_FUNCTION_LINES
    assert too_long(f"def long():\n{body}") == ["long"]
    assert too_long("x = 1\n" * (MAX_MODULE_LINES + 1)) == ["module"]
    assert too_long("def short():\n    return 1\n") == []
