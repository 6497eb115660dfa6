"""doctor: every finding has a status and, where it is not ok, one line that mends it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.config import load_config
from engine.device.hardware import Gpu, Hardware
from engine.errors import ExitCode
from rune_tui import doctor
from rune_tui.cli import run
from rune_tui.doctor import Check, Diagnosis, Status

NAMES = [
    "python",
    "config",
    "home",
    "memory",
    "disk",
    "gpu",
    "backends",
    "training",
    "model",
    "sandbox",
    "sqlite",
    "engine",
    "terminal",
]
GOOD = Hardware(cpu_count=2, ram_total_mb=8000, ram_available_mb=4000, disk_total_mb=50_000, disk_free_mb=9000)


def test_json_has_every_check_in_order_and_changes_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    home = tmp_path / "home"
    code = run(["--home", str(home), "doctor", "--json"])
    report = json.loads(capfd.readouterr().out)
    assert [check["name"] for check in report["checks"]] == NAMES
    for check in report["checks"]:
        assert set(check) == {"name", "status", "detail", "fix"}
        assert (check["status"] == "ok") == (check["fix"] == "")
        assert "\n" not in check["fix"]
    failed = any(check["status"] == "fail" for check in report["checks"])
    assert report["ok"] is not failed and code == (ExitCode.ENVIRONMENT if failed else ExitCode.OK)
    assert not home.exists()


def test_text_names_each_check_and_its_fix(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code = run(["--home", str(tmp_path), "-c", "model.path=/no/such.gguf", "doctor"])
    text = capfd.readouterr().out
    assert code == ExitCode.ENVIRONMENT
    assert all(name in text for name in NAMES)
    assert "fail  model" in text and "fix: Set model.path" in text


def test_a_broken_config_is_a_finding_and_the_rest_is_still_looked_at(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[modle]\n")
    found = {check.name: check for check in doctor.diagnose(tmp_path, (), {"TERM": "xterm"}).checks}
    assert found["config"].status is Status.FAIL and "modle" in found["config"].detail
    assert list(found) == NAMES


def test_a_backend_that_the_environment_misspells_is_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RUNE_BACKEND", "lamacpp")
    assert run(["--home", str(tmp_path), "doctor", "--json"]) == ExitCode.ENVIRONMENT
    found = {check["name"]: check for check in json.loads(capfd.readouterr().out)["checks"]}
    assert list(found) == NAMES and found["config"]["status"] == Status.FAIL
    assert "lamacpp" in found["config"]["detail"] and "RUNE_BACKEND" in found["config"]["fix"]


def test_a_model_that_is_no_gguf_fails_only_where_it_is_needed(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"PK\x03\x04")
    for backend, expected in (("llamacpp", Status.FAIL), ("scripted", Status.WARN)):
        overrides = (f"model.path={tmp_path / 'm.gguf'}", f"inference.backend={backend}")
        found = {check.name: check for check in doctor.diagnose(tmp_path, overrides, {}).checks}
        assert (found["model"].status, found["model"].detail) == (expected, f"{tmp_path / 'm.gguf'} is not a GGUF file")


@pytest.mark.parametrize(
    ("change", "memory", "disk"),
    [
        ({}, Status.OK, Status.OK),
        ({"ram_available_mb": doctor.LOW_MEMORY_MB - 1}, Status.WARN, Status.OK),
        ({"disk_free_mb": doctor.LOW_DISK_MB - 1}, Status.OK, Status.WARN),
        ({"disk_free_mb": doctor.NO_DISK_MB - 1}, Status.OK, Status.FAIL),
    ],
)
def test_memory_and_disk_by_their_limits(change: dict[str, int], memory: Status, disk: Status) -> None:
    hardware = Hardware(**(vars(GOOD) | change))
    assert (doctor.check_memory(hardware).status, doctor.check_disk(hardware).status) == (memory, disk)


def test_gpu_none_is_ordinary_a_silent_driver_is_not() -> None:
    some = Hardware(**(vars(GOOD) | {"gpus": (Gpu("H\x1b[2J200", "u", 1000, 900),)}))
    assert doctor.check_gpu(GOOD, driver=False).status is Status.OK
    assert doctor.check_gpu(GOOD, driver=True).status is Status.WARN
    assert doctor.check_gpu(some, driver=True).detail == "H200 (900 of 1000 MB free)"


def test_what_is_configured_must_be_there() -> None:
    config = load_config(Path("/nonexistent/config.toml"))
    assert doctor.check_backends(config, "1.0", "5.0", None).status is Status.OK
    assert doctor.check_backends(config, None, "5.0", None).status is Status.FAIL
    scripted = load_config(Path("/nonexistent/config.toml"), ["inference.backend=scripted"])
    assert doctor.check_backends(scripted, None, None, None).status is Status.WARN
    vllm = load_config(Path("/nonexistent/config.toml"), ["inference.backend=vllm"])
    found = doctor.check_backends(vllm, "1.0", "5.0", None)
    assert (found.status, found.fix) == (Status.FAIL, "rune-tui backend install vllm")
    assert doctor.check_backends(vllm, "1.0", "5.0", "0.33.0").status is Status.OK


def test_what_training_needs() -> None:
    assert doctor.check_training("2.13.0", "0.21", "0.50").status is Status.OK
    assert "only --method lora" in doctor.check_training("2.13.0", "0.21", None).detail
    for missing in ((None, "0.21", "0.50"), ("2.13.0", None, "0.50")):
        assert doctor.check_training(*missing).status is Status.WARN


@pytest.mark.parametrize(
    ("version", "status"), [("3.40.1", Status.WARN), ("3.51.2", Status.WARN), ("3.51.3", Status.OK)]
)
def test_sqlite_is_judged_as_numbers(version: str, status: Status) -> None:
    assert doctor.check_sqlite(version).status is status


def test_exit_code_is_3_only_for_a_failure() -> None:
    ok, warn, fail = Check("a", Status.OK, ""), Check("b", Status.WARN, "", "do"), Check("c", Status.FAIL, "", "do")
    assert Diagnosis((ok, warn)).exit_code is ExitCode.OK
    assert Diagnosis((ok, warn, fail)).exit_code is ExitCode.ENVIRONMENT


def test_a_finding_without_a_fix_cannot_be_made() -> None:
    with pytest.raises(AssertionError):
        Check("a", Status.WARN, "something is wrong")


def test_an_open_home_and_a_home_that_is_a_file(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    assert doctor.check_home(tmp_path).fix == f"chmod 700 {tmp_path}"
    tmp_path.chmod(0o700)
    assert doctor.check_home(tmp_path).status is Status.OK
    (tmp_path / "file").write_text("")
    assert doctor.check_home(tmp_path / "file").status is Status.FAIL
    assert doctor.check_home(tmp_path / ("x" * 120)).status is Status.FAIL
