"""Rows -> token sequences of which only the answer counts. Knows the tokenizer by four calls, and no torch.

An example is `prompt + answer + end of turn`, tokenized in two pieces, because that is what the model will see when it
serves: the prompt comes tokenized with its generation prompt, and the model continues from there. So whatever text a
chat template adds - system turns, headers, an empty line of thought - is prompt, and never learned. A row that has only
the beginning of an answer (`DataRow.cut`) gets no end of turn: that the answer stops there would be learned from it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from engine.errors import TrainingError
from engine.training.spec import MAX_ROW_BYTES, DataRow, Turn, parse_row

IGNORED = -100
"""Label of a token that is not learned: the one that PyTorch's cross entropy skips."""
PROBE = "rune-probe"
"""An answer that no template changes: what follows it is the end of a turn."""


class Tokenizer(Protocol):
    """What is used of a transformers tokenizer."""

    eos_token_id: int | None
    all_special_ids: Sequence[int]

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any: ...

    def __call__(self, text: str, **options: Any) -> Any: ...

    def decode(self, token_ids: list[int], **options: Any) -> str: ...


@dataclass(frozen=True, slots=True)
class Example:
    """One token sequence; the first `prompt` tokens are given, the rest is learned."""

    tokens: tuple[int, ...]
    prompt: int
    keep: bool = False
    """Not learned: the base model's distribution over each of the answer's tokens is kept."""

    @property
    def answer(self) -> int:
        """How many tokens are learned."""
        return len(self.tokens) - self.prompt

    @property
    def labels(self) -> list[int]:
        """`IGNORED` for each token of the prompt, then the tokens themselves."""
        return [IGNORED] * self.prompt + list(self.tokens[self.prompt :])


@dataclass(frozen=True, slots=True)
class Dataset:
    """A data file, tokenized."""

    train: tuple[Example, ...]
    held_out: tuple[Example, ...]
    too_long: int
    digest: str
    """SHA-256 of the file."""


class Encoder:
    """Turns rows into examples.

    Raises:
        TrainingError: the tokenizer has no chat template, or no token that ends a turn.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.end_of_turn = self._find_end_of_turn()

    def encode(self, row: DataRow) -> Example:
        """One row as an example, however long."""
        prompt = self.prompt(row.messages)
        # Special tokens in an answer are text: a model that wrote "<|im_end|>" into a string did not end its turn.
        answer = self._ids(row.completion, special=False)
        end = () if row.cut else (self.end_of_turn,)
        return Example((*prompt, *answer, *end), len(prompt), row.keep)

    def prompt(self, messages: Sequence[Turn]) -> list[int]:
        """What the model is given before it answers, as it is when it serves."""
        return self._ids(self._render([turn.model_dump() for turn in messages], generate=True), special=True)

    def text(self, tokens: Sequence[int]) -> str:
        """What an answer of the model says."""
        return self._tokenizer.decode(list(tokens), skip_special_tokens=True)

    def _ids(self, text: str, *, special: bool) -> list[int]:
        encoded = self._tokenizer(text, add_special_tokens=False, split_special_tokens=not special)
        return list(encoded["input_ids"])

    def _render(self, messages: list[dict[str, str]], *, generate: bool) -> str:
        try:
            return self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generate)
        except ValueError as error:
            raise TrainingError(f"The base model's chat template does not take these messages: {error}") from error

    @property
    def ends(self) -> frozenset[int]:
        """Tokens after which a server stops: the end of a turn, and of a text."""
        text = self._tokenizer.eos_token_id
        return frozenset({self.end_of_turn} if text is None else {self.end_of_turn, text})

    def _find_end_of_turn(self) -> int:
        """The first special token after an answer; the end of the text where the template writes none."""
        turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": PROBE}]
        after = self._render(turns, generate=False).partition(PROBE)[2]
        special = frozenset(self._tokenizer.all_special_ids)
        for token in self._ids(after, special=True):
            if token in special:
                return token
        if self._tokenizer.eos_token_id is None:
            raise TrainingError("The base model's tokenizer has no token that ends a turn.")
        return self._tokenizer.eos_token_id


def read_dataset(path: Path, encoder: Encoder, max_tokens: int) -> Dataset:
    """Read and tokenize a data file; sequences over `max_tokens` are left out and counted.

    Raises:
        TrainingError: it cannot be read, a row is not valid, or nothing is left to learn from.
    """
    digest = hashlib.sha256()
    train: list[Example] = []
    held_out: list[Example] = []
    too_long = 0
    try:
        with path.open("rb") as lines:
            for row in _rows(_hashed(lines, digest)):
                example = encoder.encode(row)
                if len(example.tokens) > max_tokens:
                    too_long += 1
                else:
                    (held_out if row.held_out else train).append(example)
    except OSError as error:
        raise TrainingError(f"The training data cannot be read: {error}.") from error
    if all(example.keep for example in train):
        left_out = f" {too_long} rows are longer than {max_tokens} tokens." if too_long else ""
        raise TrainingError(f"There is nothing to learn from.{left_out}")
    return Dataset(tuple(train), tuple(held_out), too_long, digest.hexdigest())


def _hashed(lines: Any, digest: Any) -> Iterator[bytes]:
    while line := lines.readline(MAX_ROW_BYTES + 1):
        digest.update(line)
        yield line


def _rows(lines: Iterable[bytes]) -> Iterator[DataRow]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield parse_row(line, number)
