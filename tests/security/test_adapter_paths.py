"""Pickles in disguise (A2) and path tricks (A4)."""

from __future__ import annotations

import json
import os
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from support.registry_house import open_house

from registry.errors import AdapterRejected
from registry.samples import safetensors_bytes, sample_config, sample_tensors

ROOT = Path(__file__).parents[2]


def config(**changes: object) -> bytes:
    return json.dumps({**sample_config(), **changes}).encode()


class Canary:
    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return exec, (f"open({str(self._mark)!r}, 'w').close()",)


def disguises(directory: Path, mark: Path) -> dict[str, Callable[[Path], object]]:
    """Ten ways of bringing a pickle to a reader of PEFT directories; each changes a valid one."""
    bad = pickle.dumps(Canary(mark))
    aside = directory / "aside"
    aside.mkdir()

    def zipped(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", bad)

    def without_weights(root: Path) -> Path:
        (root / "adapter_model.safetensors").unlink()
        return root

    def linked(root: Path, name: str) -> None:
        (aside / name).write_bytes(bad)
        (without_weights(root) / "adapter_model.safetensors").symlink_to(aside / name)

    return {
        "adapter_model.bin alone": lambda root: (without_weights(root) / "adapter_model.bin").write_bytes(bad),
        "adapter_model.pt": lambda root: (without_weights(root) / "adapter_model.pt").write_bytes(bad),
        "adapter_model.pkl": lambda root: (without_weights(root) / "adapter_model.pkl").write_bytes(bad),
        "adapter_model.ckpt": lambda root: (without_weights(root) / "adapter_model.ckpt").write_bytes(bad),
        "pickle named .safetensors": lambda root: (root / "adapter_model.safetensors").write_bytes(bad),
        "zip named .safetensors": lambda root: zipped(root / "adapter_model.safetensors"),
        "torch zip as .bin": lambda root: zipped(without_weights(root) / "adapter_model.bin"),
        "link to a .pkl": lambda root: linked(root, "x.pkl"),
        "pickle as the config": lambda root: (root / "adapter_config.json").write_bytes(bad),
        "pickle after valid weights": lambda root: (root / "adapter_model.safetensors").write_bytes(
            safetensors_bytes(sample_tensors()) + bad
        ),
    }


async def test_a2_pickles_in_ten_disguises_never_run(tmp_path: Path) -> None:
    mark = tmp_path / "the-canary-ran"
    async with open_house(tmp_path / "home") as house:
        kinds = disguises(tmp_path, mark)
        assert len(kinds) == 10
        for number, (name, disguise) in enumerate(kinds.items()):
            directory = await house.sample(number)
            disguise(directory)
            with pytest.raises(AdapterRejected):
                await house.registry.import_directory(str(directory), f"a{number}", task_type="sort")
            assert not mark.exists(), name
        assert house.files() == {}


def test_a2_negative_control_the_canary_does_run_when_unpickled(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Canary(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


FORBIDDEN = re.compile(
    r"torch\.load\b|^\s*(?:import|from)\s+(?:pickle|cPickle|_pickle|dill|cloudpickle|joblib|shelve)\b"
    r"|trust_remote_code\s*=\s*True|allow_pickle\s*=\s*True",
    re.MULTILINE,
)


def test_a2_no_code_of_ours_can_unpickle() -> None:
    files = [path for package in ("rune_tui", "engine", "registry") for path in (ROOT / package).rglob("*.py")]
    assert len(files) > 20
    found = {str(path.relative_to(ROOT)): FORBIDDEN.findall(path.read_text()) for path in files}
    assert {name: hits for name, hits in found.items() if hits} == {}


@pytest.mark.parametrize(
    "line", ["import pickle", "from joblib import load", "x = torch.load(p)", "f(trust_remote_code=True)"]
)
def test_a2_static_check_negative_control(line: str) -> None:
    assert FORBIDDEN.search(line)


PARENT_TRICKS = ("..", ".", "../x", "../../etc", "x/../..", "/etc/passwd", "/", "a/b", "a//b", "./x", "~", "~root")
ENCODED_TRICKS = (
    "%2e%2e",
    "%2e%2e%2f",
    "%252e%252e",
    "..%2f",
    "..\\x",
    "C:\\x",
    "\\\\host\\x",
    "..%c0%af",
    "．．",
    "․․",
)
CONTROL_TRICKS = ("a\x00b", "\x00", "a\nb", "a\rb", "a\tb", "\x1b[2J", "a\u202eb", "a\u200bb", "é", "ⅰd", "a" * 101, "")
ENDING_TRICKS = ("x.", "x..", "x ", " x", ".hidden", "x:y", "x|y", "x*y", "x?", 'x"y', "x<y", "x$HOME", "x`id`", "-\n")
ID_TRICKS = (*PARENT_TRICKS, *ENCODED_TRICKS, *CONTROL_TRICKS, *ENDING_TRICKS)


def listing(root: Path) -> dict[str, tuple[int, int]]:
    found = [root, *root.rglob("*")]
    return {str(path): (path.lstat().st_mode, path.lstat().st_size) for path in found if not path.is_dir()}


async def test_a4_no_id_is_a_path(tmp_path: Path) -> None:
    """A4: 48 ids refused, and nothing is anywhere that was not there before."""
    assert len(ID_TRICKS) >= 45
    async with open_house(tmp_path / "outer" / "home") as house:
        source = await house.sample(0)
        before = listing(tmp_path)
        for trick in ID_TRICKS:
            with pytest.raises(AdapterRejected):
                await house.registry.import_directory(str(source), trick, task_type="sort")
            with pytest.raises(AdapterRejected):
                await house.publish("fine", task_type=trick)
            with pytest.raises(AdapterRejected):
                await house.publish("fine", session_id=trick)
        await house.publish("Mixed")
        with pytest.raises(Exception, match="already published"):
            await house.publish("mIXED")
        outside = {path: facts for path, facts in listing(tmp_path).items() if "/home/" not in path}
        assert outside == {path: facts for path, facts in before.items() if "/home/" not in path}
        assert len(house.files()) == 2


def file_tricks(outside: Path) -> dict[str, Callable[[Path], Path | str]]:
    """Ways for a directory to be other than it seems; each gets a valid one and gives what is imported."""
    secret = outside / "secret.safetensors"
    weights, settings = "adapter_model.safetensors", "adapter_config.json"

    def replaced(root: Path, name: str, make: Callable[[Path], object]) -> Path:
        (root / name).rename(secret if name == weights else outside / "config")
        make(root / name)
        return root

    def link_to(target: Path) -> Path:
        link = target.with_name(target.name + "-link")
        link.symlink_to(target)
        return link

    return {
        "weights a link": lambda root: replaced(root, weights, lambda path: path.symlink_to(secret)),
        "weights a hard link": lambda root: replaced(root, weights, lambda path: path.hardlink_to(secret)),
        "weights a FIFO": lambda root: replaced(root, weights, os.mkfifo),
        "weights a directory": lambda root: replaced(root, weights, os.mkdir),
        "weights a device": lambda root: replaced(root, weights, lambda path: path.symlink_to("/dev/zero")),
        "weights a dangling link": lambda root: replaced(root, weights, lambda path: path.symlink_to("nowhere")),
        "weights a link to itself": lambda root: replaced(root, weights, lambda path: path.symlink_to(path.name)),
        "config a link": lambda root: replaced(root, settings, lambda path: path.symlink_to(outside / "config")),
        "config a FIFO": lambda root: replaced(root, settings, os.mkfifo),
        "directory a link": link_to,
        "parent a link": lambda root: link_to(root.parent) / root.name,
        "with a parent step": lambda root: f"{root}/../{root.name}",
        "relative": lambda root: os.path.relpath(root),
        "with NUL": lambda root: f"{root}\x00",
        "with a newline": lambda root: f"{root}\n",
        "too long": lambda root: f"{root}{'/.' * 5000}x",
        "a file": lambda root: root / weights,
        "missing": lambda root: root / "missing",
        "home directory sign": lambda root: "~/adapter",
        "percent-encoded": lambda root: str(root).replace("/", "%2f"),
        "a URL": lambda root: f"file://{root}",
        "procfs": lambda root: "/proc/self/root",
    }


async def test_a4_no_directory_leads_elsewhere(tmp_path: Path) -> None:
    """A4: 22 directories refused; what lies outside is neither changed nor copied."""
    tricks = file_tricks(tmp_path)
    async with open_house(tmp_path / "home") as house:
        for number, (name, trick) in enumerate(tricks.items()):
            root = write(tmp_path / f"{number}" / "adapter", number)
            with pytest.raises(AdapterRejected):
                await house.registry.import_directory(str(trick(root)), f"a{number}", task_type="sort")
            assert house.files() == {}, name
            assert not any((house.root / "adapters").glob("*")), name


def write(directory: Path, seed: int) -> Path:
    """As `write_sample`, but in the test's own code, which may block."""
    directory.mkdir(parents=True)
    (directory / "adapter_model.safetensors").write_bytes(safetensors_bytes(sample_tensors(seed)))
    (directory / "adapter_config.json").write_bytes(config())
    return directory


async def test_a4_negative_control_the_same_directory_untricked_is_taken(tmp_path: Path) -> None:
    async with open_house(tmp_path / "home") as house:
        adapter = await house.registry.import_directory(str(write(tmp_path / "a", 0)), "fine", task_type="sort")
        assert adapter.id == "fine"
