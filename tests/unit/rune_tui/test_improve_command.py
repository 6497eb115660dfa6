"""What the options of `rune-tui improve` make, and what is refused before an engine is asked."""

from __future__ import annotations

import pytest

from engine.api_evolution import ImproveRequest
from engine.errors import ExitCode, InputError
from rune_tui.cli import run
from rune_tui.commands.improve import read_request

NOTHING: dict[str, object] = {
    "suite": "kit", "rounds": 1, "limit": None, "explore": True, "demonstrations": None, "preset": "standard",
    "seed": 0, "rehearse": (), "no_rehearse": False,
}  # fmt: skip


def test_the_options_are_the_defaults_of_the_request() -> None:
    assert read_request(NOTHING) == ImproveRequest(suite="kit")
    assert ImproveRequest(suite="kit").rehearse == ("general", "inkwell", "runekit")


def test_other_suites_are_rehearsed_or_none() -> None:
    assert read_request(NOTHING | {"rehearse": ("inkwell", "general")}).rehearse == ("inkwell", "general")
    assert read_request(NOTHING | {"no_rehearse": True}).rehearse == ()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"rehearse": ("a",), "no_rehearse": True}, "Give either --rehearse or --no-rehearse."),
        ({"rehearse": ("a", "a")}, "--rehearse ('a', 'a'): a suite is named twice."),
        ({"rehearse": ("../a",)}, "--rehearse '../a': "),
        ({"rounds": 0}, "--rounds 0: "),
    ],
)
def test_a_bad_option_is_named(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(InputError) as refused:
        read_request(NOTHING | options)
    assert str(refused.value).startswith(sentence)


def test_the_command_knows_them_and_refuses_before_it_starts_an_engine(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("--home", "/nowhere", "improve", "--suite", "kit")
    assert run([*asked, "--rehearse", "a", "--rehearse", "b", "--no-rehearse"]) == ExitCode.USAGE
    assert "Give either --rehearse or --no-rehearse." in capsys.readouterr().err
