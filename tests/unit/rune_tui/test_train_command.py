"""What the options of `rune-tui train` make, and what is shown while a job runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.api_models import RunState
from engine.api_training import TrainJob, TrainPreview, TrainProgress, TrainRequest
from engine.errors import InputError
from rune_tui.commands.train import preview_lines, read_request
from rune_tui.progress_bar import ProgressBar, duration

NOTHING: dict[str, object] = {
    "dataset": None, "from_trajectories": False, "sessions": (), "preset": "standard", "method": None, "rank": None,
    "epochs": None, "max_steps": None, "learning_rate": None, "batch_size": None, "max_tokens": None,
    "adapter_id": None, "task_type": "code-gen", "warm_start": "off", "seed": 0,
}  # fmt: skip
PREVIEW = TrainPreview(
    examples=27, held_out=3, left_out=1, tokens=1400, steps=12, peak_mib=900, free_mib=8000, fits=True,
    asleep=("llamacpp",), seconds=None, method="qlora", note="A note.",
)  # fmt: skip


def progress(step: int, eta: float = 65.0) -> TrainProgress:
    return TrainProgress(
        job_id="train-1", step=step, steps=9, loss=0.5, held_out_loss=0.25, learning_rate=1e-4, grad_norm=1.0,
        tokens_per_second=12.3, memory_mib=1, eta_seconds=eta,
    )  # fmt: skip


def test_a_relative_dataset_is_named_whole_and_off_means_off(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    request = read_request(NOTHING | {"dataset": Path("d.jsonl"), "rank": 8})
    assert request == TrainRequest(dataset=str(tmp_path / "d.jsonl"), rank=8)
    assert read_request(NOTHING | {"from_trajectories": True, "warm_start": "old"}).warm_start == "old"
    assert read_request(NOTHING | {"from_trajectories": True, "rehearsal": "rehearse-1"}).rehearsal == "rehearse-1"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "Give either --dataset FILE or --from-trajectories."),
        ({"dataset": Path("d"), "from_trajectories": True}, "Give either"),
        ({"dataset": Path("d"), "sessions": ("a",)}, "--session needs"),
        ({"dataset": Path("d"), "max_steps": 0}, "--max-steps 0: "),
        ({"from_trajectories": True, "sessions": ("../a",)}, "--session '../a': "),
        ({"dataset": Path("d"), "seed": -1}, "--seed -1: "),
        ({"dataset": Path("d"), "rehearsal": "../a"}, "--rehearsal '../a': "),
    ],
)
def test_a_bad_option_is_named(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(InputError) as refused:
        read_request(NOTHING | options)
    assert str(refused.value).startswith(sentence)


def test_a_preview_in_words() -> None:
    lines = preview_lines(PREVIEW)
    assert lines[0] == "27 examples (3 held out, 1 left out), 12 steps, 1400 tokens an epoch, qlora"
    besides = preview_lines(PREVIEW.model_copy(update={"kept": 60}))[0]
    assert besides.startswith("27 examples (3 held out, 1 left out) and 60 kept, 12 steps")
    assert lines[1:3] == [
        "memory: 900 of 8000 MiB",
        "asleep meanwhile: llamacpp; time: nothing like it was run here yet",
    ]
    other = preview_lines(PREVIEW.model_copy(update={"fits": False, "seconds": 61.4, "asleep": (), "note": ""}))
    assert "does not fit" in other[1] and other[2] == "asleep meanwhile: nobody; time: about 61 s" and len(other) == 3


def test_without_a_terminal_a_line_now_and_then_and_always_the_last(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressBar("train-1") as bar:
        for step in range(1, 10):
            bar.step(progress(step))
        bar.state(
            TrainJob(
                id="train-1", state=RunState.RUNNING, request=TrainRequest(dataset="/d"), adapter_id="a", created_at=""
            )
        )
    said = capsys.readouterr()
    assert said.out == ""
    facts = "loss 0.5000, held out 0.2500, 12 tokens/s, 1:05 left"
    assert said.err.splitlines() == [f"step 1/9: {facts}", f"step 9/9: {facts}"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(-1, "0 s"), (5.4, "5 s"), (59.6, "1:00"), (200, "3:20"), (3723, "1:02:03")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
