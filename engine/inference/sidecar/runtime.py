"""What a model library offers to the decode thread: weights, a context of several sequences, adapters, samplers.

`llama_runtime` and `transformers_runtime` are the two there are. All but `prepare` is called in the decode thread.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from engine.inference.sidecar.backend import Job, TokenLogprob


@dataclass(frozen=True)
class Entry:
    """One token of a batch: where it stands in which sequence, and whether its logits are wanted."""

    token: int
    position: int
    sequence: int
    logits: bool


class Model(Protocol):
    """Weights and vocabulary, in memory."""

    def chat_template(self) -> str | None:
        """The Jinja template that came with it; None if there is none."""
        ...

    def tokenize(self, text: str, add_special: bool, parse_special: bool) -> list[int]:
        """Token ids; special tokens written in `text` count as such only with `parse_special`."""
        ...

    def piece(self, token: int) -> bytes:
        """The bytes of a token; empty for control tokens. May be a part of a character."""
        ...

    def special_text(self, token: int) -> str:
        """The name of a control token, such as `<|im_start|>`; empty for no token (-1)."""
        ...

    def bos(self) -> int:
        """The token that begins a text, or -1."""
        ...

    def eos(self) -> int:
        """The token that ends a text, or -1."""
        ...

    def is_end(self, token: int) -> bool:
        """Whether the model ends its answer with this token."""
        ...

    def close(self) -> None:
        """Give the memory back; contexts and adapters have been closed before."""
        ...


class Adapter(Protocol):
    """An adapter in memory."""

    def close(self) -> None:
        """Give its memory back; it is not in use any more."""
        ...


A = TypeVar("A", bound=Adapter, contravariant=True)


class Context(Protocol[A]):
    """The keys and values of several sequences, and the computation."""

    def decode(self, entries: Sequence[Entry]) -> None:
        """Compute a batch; logits are then found by place in the batch.

        The entries are consecutive tokens of one sequence, or one token each of several.

        Raises:
            BackendError: it failed; the sequences of the batch are in no certain state.
        """
        ...

    def logits(self, place: int) -> NDArray[np.float32]:
        """The logits (vocabulary,) of the batch's entry at `place`; the next decode may overwrite them."""
        ...

    def keep(self, sequence: int, tokens: int) -> bool:
        """Forget a sequence from position `tokens` on. False: that cannot be done, and all of it is forgotten."""
        ...

    def use_adapter(self, adapter: A | None) -> None:
        """Compute with this adapter, or with none, from the next decode on."""
        ...

    def close(self) -> None: ...


class Sampler(Protocol):
    """How the tokens of one request are drawn."""

    def sample(self, context: Any, place: int) -> int:
        """Draw a token for the batch's entry at `place`, and remember it."""
        ...

    def close(self) -> None: ...


class Runtime(Protocol):
    """A model library, for one model."""

    adapter_suffix: str
    """Of the files that `prepare` writes."""

    def load(self) -> tuple[Model, Context[Any]]:
        """Bring the model into memory, and compute one token to know that it works.

        Raises:
            BackendError: it cannot be loaded; nothing of it is left in memory.
        """
        ...

    def prepare(self, directory: Path, file: Path, gguf_sha256: str | None) -> None:
        """Check the PEFT directory and write what `attach` reads. Blocks; may run in any thread.

        Args:
            gguf_sha256: of the form that was published in the directory, which may be written in its place.

        Raises:
            AdapterRejected: it is not acceptable, or does not fit the base model; names the check.
        """
        ...

    def attach(self, model: Any, file: Path) -> Adapter:
        """Load a prepared adapter.

        Raises:
            BackendError: the library refuses it.
        """
        ...

    def sampler(self, model: Any, job: Job) -> Sampler:
        """The sampler of one request.

        Raises:
            BadRequestError: its JSON schema cannot be followed.
        """
        ...


def logprob(logits: NDArray[np.float32], token: int, top: int, model: Model) -> TokenLogprob:
    """Natural-log probabilities of the model itself, before penalties and temperature."""
    values = logits.astype(np.float64)
    values -= values.max()
    values -= np.log(np.exp(values).sum())
    best = np.argpartition(values, -top)[-top:] if top else np.array([], dtype=np.intp)
    ranked = sorted(((float(values[at]), int(at)) for at in best), reverse=True)
    return TokenLogprob(
        token=_text(model, token),
        logprob=float(values[token]),
        top=tuple((_text(model, at), value) for value, at in ranked),
    )


def _text(model: Model, token: int) -> str:
    return model.piece(token).decode(errors="replace") or model.special_text(token)


def release_freed_memory() -> None:
    """Ask glibc to give freed pages back to the system; other C libraries have no such call."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
