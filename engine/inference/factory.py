"""Which client for which backend: one instance per (kind, url)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

from engine.inference.openai_client import Endpoint
from engine.inference.provider import Capabilities, Provider

_ALL = Capabilities(adapters=True, json_schema=True, logprobs=True, sleep=True)
CAPABILITIES: Mapping[str, Capabilities] = {
    "scripted": _ALL,
    "llamacpp": _ALL,
    "transformers": _ALL,
    "vllm": _ALL,
    "ollama": Capabilities(adapters=False, json_schema=True, logprobs=False, sleep=True),
}
"""Every kind there is, and what it can do. A further backend is a further line."""

P = TypeVar("P", bound=Provider)


class ProviderFactory(Generic[P]):
    """Hands out one provider per (kind, url), so that connections are shared. Belongs to one event loop."""

    def __init__(self, build: Callable[[Endpoint], P]) -> None:
        self._build = build
        self._made: dict[tuple[str, str], P] = {}

    def create_provider(self, kind: str, *, url: str, model: str, key: str, timeout_s: float, retries: int) -> P:
        """The provider of this kind at this url; the first call for a pair decides its other settings.

        Raises:
            ValueError: no such kind; names those there are.
        """
        if kind not in CAPABILITIES:
            raise ValueError(f"unknown backend {kind!r}: choose one of {', '.join(sorted(CAPABILITIES))}")
        made = self._made.get((kind, url))
        if made is None:
            endpoint = Endpoint(kind, url, model, key, CAPABILITIES[kind], timeout_s, retries)
            made = self._made[kind, url] = self._build(endpoint)
        return made

    async def aclose(self) -> None:
        """Close every provider that was made."""
        while self._made:
            _, provider = self._made.popitem()
            await provider.aclose()
