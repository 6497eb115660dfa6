"""What the options of `rune-tui evaluate` make, what its report says, and what is shown while an operation runs."""

from __future__ import annotations

import pytest

from engine.api_learning import (
    EvaluateRequest,
    EvaluationReport,
    Operation,
    OperationKind,
    OperationProgress,
    RateRecord,
    Split,
)
from engine.api_models import RunState
from engine.errors import ExitCode, InputError
from rune_tui.cli import run
from rune_tui.commands.evaluate import read_request, report_lines, show_report
from rune_tui.commands.follow import OperationBar, exit_code
from rune_tui.commands.operations import print_operation

NOTHING: dict[str, object] = {
    "suite": "mine", "adapter": "base", "split": "gate", "groups": (), "limit": None, "k": 1, "samples": None,
    "temperature": None, "max_tokens": None, "seed": 0,
}  # fmt: skip
RATE = RateRecord(passed=92, total=100, value=0.92, low=0.85, high=0.959)
REPORT = EvaluationReport(
    key="k", suite="mine", suite_digest="s" * 64, split=Split.GATE, seed=3, adapter="kit", adapter_digest="d" * 64,
    digest_proven=True, base_model="tiny", backend="llamacpp", sampling={"temperature": 0.8, "max_tokens": 256},
    tasks=100, samples_per_task=5, k=5, pass_at_1=RATE, pass_at_k=0.975, by_group={"in": RATE},
    by_template={"flim-nab": RATE}, infrastructure=2, no_data=False, tokens=1234, seconds=61.4, sampled=(),
    created_at="",
)  # fmt: skip


def operation(state: RunState, **fields: object) -> Operation:
    given = {"id": "evaluate-1", "kind": OperationKind.EVALUATE, "request": {"suite": "mine"}, "created_at": "2026"}
    return Operation.model_validate({**given, "state": state, **fields})


def test_k_alone_asks_for_as_many_samples() -> None:
    assert read_request(NOTHING | {"k": 5}) == EvaluateRequest(suite="mine", k=5, samples=5)
    assert read_request(NOTHING | {"k": 5, "samples": 10}).samples == 10
    assert read_request(NOTHING | {"groups": ("in", "deeper"), "limit": 3}).groups == ("in", "deeper")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"k": 5, "samples": 2}, "--samples 2: pass@5 needs at least 5 samples"),
        ({"limit": 0}, "--limit 0: "),
        ({"groups": ("../x",)}, "--group '../x': "),
        ({"max_tokens": 0}, "--max-tokens 0: "),
    ],
)
def test_a_bad_option_is_named(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(InputError) as refused:
        read_request(NOTHING | options)
    assert str(refused.value).startswith(sentence)


def test_a84_a_report_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    lines = report_lines(REPORT)
    assert lines[0] == "kit (dddddddddddd, proven by the server) on mine gate, seed 3"
    assert lines[1:4] == [
        "tiny on llamacpp; 100 tasks (ssssssssssss), 5 of each, temperature 0.8, at most tokens 256",
        "pass@1 92/100 = 0.920 [0.850, 0.959]", "pass@5 0.975"
    ]  # fmt: skip
    assert "2 samples say nothing" in lines[4]
    unproven = report_lines(REPORT.model_copy(update={"digest_proven": False, "no_data": True, "k": 1}))
    assert "not proven" in unproven[0] and "no data" in unproven[-2] and not any("pass@5" in line for line in unproven)
    show_report(REPORT.model_dump(mode="json"))
    assert capsys.readouterr().out.splitlines()[-1].split() == ["in", "92/100", "0.920", "0.850", "-", "0.959"]
    show_report(REPORT.model_dump(mode="json"), clusters=True)
    assert capsys.readouterr().out.splitlines()[-1].split() == ["flim-nab", "92/100", "0.920", "0.850", "-", "0.959"]


def test_without_a_terminal_a_line_now_and_then_and_the_last_once(capsys: pytest.CaptureFixture[str]) -> None:
    last = OperationProgress(done=9, total=9, eta_seconds=0, note="all \x1b[31mdone")
    with OperationBar("evaluate-1") as bar:
        for number in range(1, 9):
            bar.step(OperationProgress(done=number, total=9, eta_seconds=65.0, note="3 passed"))
        bar.step(last)
        bar.state(operation(RunState.SUCCEEDED, progress=last))
    said = capsys.readouterr()
    assert said.out == "" and "\x1b" not in said.err
    lines = said.err.splitlines()
    assert lines[0] == "1/9: 3 passed, 1:05 left" and len(lines) == 2 and lines[1].startswith("9/9: all ")


def test_an_operation_without_a_result_is_exit_1_with_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(operation(RunState.SUCCEEDED)) == exit_code(operation(RunState.QUEUED)) == ExitCode.OK
    assert exit_code(operation(RunState.FAILED, reason="No such suite.")) == ExitCode.NOT_VERIFIED
    assert capsys.readouterr().err == "rune-tui: evaluate-1 is failed: No such suite.\n"


def test_an_operation_is_printed_with_its_request(capsys: pytest.CaptureFixture[str]) -> None:
    print_operation(
        operation(RunState.RUNNING, progress=OperationProgress(done=1, total=4, eta_seconds=9)), as_json=False
    )
    shown = capsys.readouterr().out
    assert "request suite  mine" in shown and "1/4" in shown and "9 s" in shown


@pytest.mark.parametrize("command", ["evaluate", "operations"])
def test_help_says_what_the_exit_codes_mean(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([command, "--help"]) == ExitCode.OK
    assert "evaluat" in capsys.readouterr().out
