"""What the pipeline asks of a model server, whichever it is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

Role = Literal["system", "user", "assistant"]
FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class Message:
    """One turn of a chat."""

    role: Role
    content: str


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn; every field reaches the wire."""

    max_tokens: int
    temperature: float
    top_p: float
    repetition_penalty: float
    seed: int
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Request:
    """One generation."""

    messages: tuple[Message, ...]
    sampling: Sampling
    adapter: str | None = None
    """Digest-derived name of a loaded adapter; None means the base model."""
    json_schema: dict[str, Any] | None = None
    """Constrains the answer to JSON of this schema."""


@dataclass(frozen=True)
class Delta:
    """A piece of an answer as it streams; the last one carries the finish reason and the usage."""

    text: str
    finish_reason: FinishReason | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    backend: str = ""
    """On the last piece: which one answered, where it may change between two requests."""


@dataclass(frozen=True)
class Completion:
    """A whole answer."""

    text: str
    model: str
    adapter: str | None
    prompt_tokens: int
    completion_tokens: int
    finish_reason: FinishReason
    served: str = ""
    """The model or adapter that the server says answered; empty where it does not say."""


@dataclass(frozen=True)
class Capabilities:
    """What this backend can do; the UI hides the rest."""

    adapters: bool
    json_schema: bool
    logprobs: bool
    sleep: bool


@dataclass(frozen=True)
class Health:
    """What the server says about itself."""

    ready: bool
    backend: str
    model: str
    adapters: tuple[str, ...] = field(default=())


class Provider(Protocol):
    """A model server. Implementations are sidecar-backed (`openai_client`) or external (`ollama`)."""

    @property
    def capabilities(self) -> Capabilities: ...

    async def generate(self, request: Request) -> Completion:
        """The whole answer.

        Raises:
            ProviderError, ProviderTimeoutError, ContextOverflowError, AdapterUnsupportedError
        """
        ...

    def stream(self, request: Request) -> AsyncIterator[Delta]:
        """The answer in pieces; closing the iterator cancels the generation on the server."""
        ...

    async def load_adapter(self, name: str, path: str) -> None:
        """Make the adapter directory at `path` selectable as `name`; the same name with other bytes is refused."""
        ...

    async def unload_adapter(self, name: str) -> None: ...

    async def list_adapters(self) -> tuple[str, ...]:
        """Names, sorted, as the server reports them."""
        ...

    async def health(self) -> Health: ...

    async def aclose(self) -> None: ...
