"""Which tokens of a row are learned, with a tokenizer whose tokens are characters: no library is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from engine.training.qlora.data import Encoder, Example
from engine.training.spec import DataRow, Turn

END = "\x02"
"""Ends a turn."""
START = "\x01"


class Characters:
    """Every character is a token; two of them are special."""

    eos_token_id: int | None = ord(END)
    all_special_ids: Sequence[int] = (ord(START), ord(END))

    def apply_chat_template(self, conversation: Any, **options: Any) -> str:
        turns = "".join(f"{START}{turn['role']}:{turn['content']}{END}" for turn in conversation)
        return turns + (f"{START}assistant:" if options["add_generation_prompt"] else "")

    def __call__(self, text: str, **options: Any) -> dict[str, list[int]]:
        return {"input_ids": [ord(character) for character in text]}

    def decode(self, token_ids: list[int], **options: Any) -> str:
        return "".join(map(chr, token_ids))


class Forgetful(Encoder):
    """Does not look whether the answer goes on."""

    def encode(self, row: DataRow) -> Example:
        return super().encode(row.model_copy(update={"cut": False}))


def learned(encoder: Encoder, *, cut: bool) -> str:
    row = DataRow(messages=(Turn(role="user", content="Why?"),), completion="def f(", cut=cut)
    example = encoder.encode(row)
    assert "".join(map(chr, example.tokens[: example.prompt])) == f"{START}user:Why?{END}{START}assistant:"
    assert example.labels[example.prompt :] == list(example.tokens[example.prompt :])
    return "".join(map(chr, example.tokens[example.prompt :]))


def test_the_end_of_an_answer_that_goes_on_is_not_learned() -> None:
    encoder = Encoder(Characters())
    assert learned(encoder, cut=True) == "def f("
    assert learned(encoder, cut=False) == "def f(" + END


def test_negative_control_an_encoder_that_forgets_teaches_to_stop_in_the_midst() -> None:
    with pytest.raises(AssertionError):
        assert learned(Forgetful(Characters()), cut=True) == "def f("
