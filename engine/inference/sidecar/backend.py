"""What a model backend of the sidecar is: plain types, no HTTP, no model library."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol


class Finish(StrEnum):
    """Why an answer ended, in the words of the protocol."""

    STOP = "stop"
    """The model ended it, or a stop string was met."""
    LENGTH = "length"
    """The token limit or the end of the context was reached."""
    ABORT = "abort"
    """The server gave it up: it goes to sleep or shuts down."""


@dataclass(frozen=True)
class Turn:
    """One message of a chat."""

    role: str
    content: str


@dataclass(frozen=True)
class Job:
    """One generation, validated."""

    prompt: tuple[Turn, ...] | str
    """Turns go through the model's chat template; a text is taken as it is."""
    max_tokens: int | None
    """None means as many as the context has room for."""
    adapter: str | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    json_schema: Mapping[str, Any] | None = None
    top_logprobs: int | None = None
    """None means no log-probabilities; 0 means those of the chosen tokens only."""


@dataclass(frozen=True)
class TokenLogprob:
    """A chosen token, its natural-log probability and the best alternatives (text, log-probability), best first."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Piece:
    """A part of an answer: `tokens` is how many tokens it covers; text may lag behind them (UTF-8, stop strings)."""

    text: str
    tokens: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()
    finish: Finish | None = None


@dataclass(frozen=True)
class Generation:
    """A running answer."""

    prompt_tokens: int
    pieces: AsyncGenerator[Piece, None]
    """Ends after the piece that carries `finish`; raises BackendError when the backend fails."""
    cancel: Callable[[], None]
    """Gives the slot back; harmless when the answer has ended."""


@dataclass(frozen=True)
class AdapterInfo:
    """A loaded adapter."""

    name: str
    path: str


@dataclass(frozen=True)
class Stats:
    """Counters since the start and gauges of now."""

    running: int
    waiting: int
    prompt_tokens: int
    generated_tokens: int
    cached_prompt_tokens: int = 0
    """Prompt tokens that were not computed again, because a slot still had them."""


class BackendError(Exception):
    """The backend cannot do it. `status` and `kind` become the HTTP status and the error type."""

    status = 500
    kind = "InternalServerError"


class BadRequestError(BackendError):
    """The request itself is at fault."""

    status = 400
    kind = "BadRequestError"


class PromptTooLongError(BadRequestError):
    """The prompt does not fit the context. The wording is vLLM's: clients recognise it."""

    def __init__(self, context: int, prompt_tokens: int) -> None:
        super().__init__(
            f"This model's maximum context length is {context} tokens. However, your prompt contains "
            f"{prompt_tokens} tokens. Please reduce the length of the prompt."
        )


class AdapterMissingError(BackendError):
    """No adapter of that name, or no such directory."""

    status = 404
    kind = "NotFoundError"


class AsleepError(BackendError):
    """The model is not in memory."""

    status = 503
    kind = "ServiceUnavailableError"


class Backend(Protocol):
    """A model. All methods are called on one event loop; none blocks it."""

    @property
    def name(self) -> str: ...

    @property
    def context_tokens(self) -> int: ...

    async def start(self) -> None:
        """Bring the model into memory.

        Raises:
            BackendError: it cannot be loaded.
        """
        ...

    async def submit(self, job: Job) -> Generation:
        """Queue a generation.

        Raises:
            BadRequestError, PromptTooLongError, AdapterMissingError, AsleepError
        """
        ...

    async def load_adapter(self, name: str, path: str, gguf_sha256: str | None = None) -> None:
        """Make the PEFT directory at `path` selectable as `name`; the same name with the same bytes is no change.

        Args:
            gguf_sha256: of the GGUF form that was published in that directory; a backend may load that one.

        Raises:
            BadRequestError: not acceptable for this base, or the name is taken by other weights.
            AdapterMissingError: no such directory.
            AsleepError
        """
        ...

    async def unload_adapter(self, name: str) -> None:
        """Forget it; answers that use it run to their end first.

        Raises:
            AdapterMissingError
        """
        ...

    def adapters(self) -> tuple[AdapterInfo, ...]:
        """The loaded ones, by name."""
        ...

    async def sleep(self, level: int) -> None:
        """Give the model's memory back; running answers end with `Finish.ABORT`."""
        ...

    async def wake(self) -> None:
        """Load the model again, and its adapters."""
        ...

    @property
    def sleeping(self) -> bool: ...

    def stats(self) -> Stats: ...

    async def aclose(self) -> None: ...
