"""The hardware probe: plain facts, and no GPU is an ordinary machine."""

from __future__ import annotations

from pathlib import Path

import pynvml
import pytest

from engine.device.hardware import Gpu, probe, probe_gpus


def test_the_probe_reports_this_machine(tmp_path: Path) -> None:
    found = probe(tmp_path / "not" / "there" / "yet")
    assert found.cpu_count >= 1
    assert found.ram_total_mb >= found.ram_available_mb > 0
    assert found.disk_total_mb >= found.disk_free_mb > 0


class Memory:
    total = 24576 << 20
    free = 20000 << 20


def driver(monkeypatch: pytest.MonkeyPatch, **functions: object) -> None:
    """A driver that has one GPU, except for what is replaced."""
    working = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: 1,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetMemoryInfo": lambda handle: Memory,
        "nvmlDeviceGetName": lambda handle: b"Some GPU",
        "nvmlDeviceGetUUID": lambda handle: "GPU-1",
    }
    for name, function in (working | functions).items():
        monkeypatch.setattr(pynvml, name, function)


def test_a_gpu_is_reported_whether_names_are_bytes_or_text(monkeypatch: pytest.MonkeyPatch) -> None:
    driver(monkeypatch)
    assert probe_gpus() == (Gpu("Some GPU", "GPU-1", 24576, 20000),)


def fails(*_: object) -> None:
    raise pynvml.NVMLError(pynvml.NVML_ERROR_UNKNOWN)


@pytest.mark.parametrize(
    "function", ["nvmlInit", "nvmlDeviceGetCount", "nvmlDeviceGetHandleByIndex", "nvmlDeviceGetMemoryInfo"]
)
def test_any_failure_of_the_driver_is_an_empty_list(monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    driver(monkeypatch, **{function: fails})
    assert probe_gpus() == ()


def test_a_name_that_is_not_text_is_an_empty_list(monkeypatch: pytest.MonkeyPatch) -> None:
    driver(monkeypatch, nvmlDeviceGetName=lambda handle: b"\xff\xfe")
    assert probe_gpus() == ()
