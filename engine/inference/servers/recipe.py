"""What one backend does its own way: how it is started, put to sleep and woken, and what it takes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from engine.api_device import BackendName
from engine.errors import ProviderError
from engine.inference.openai_client import OpenAIProvider

HANDOVER_SECONDS = 1800.0
"""For one call of a sleep or a wake: the owner's deadline is shorter and comes by cancellation."""
SIDECAR_GRACE_S = 4.0
"""From TERM to KILL; the sidecar gives answers in flight 2 s."""
INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH")
"""What finds libraries and scratch space; the rest of our environment is not for the child. Above all not
PYTORCH_CUDA_ALLOC_CONF: with expandable segments vLLM's sleep once gave nothing back (#11743)."""


@dataclass(frozen=True)
class Place:
    """Where a server of one epoch lives."""

    folder: Path
    """Its own alone, for its scratch too; removed when it is stopped."""
    socket: Path
    key: str


@dataclass(frozen=True)
class Start:
    """How it is started and reached."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    url: str
    grace_s: float
    most_adapters: int | None = None
    """It answers wrongly with more of them; None: as many as are asked for."""


class Recipe(Protocol):
    """One backend. It holds no state of a running server: that is `ProcessServer`'s."""

    @property
    def backend(self) -> BackendName: ...

    @property
    def need_mib(self) -> int: ...

    @property
    def start_timeout_s(self) -> float: ...

    @property
    def timeout_key(self) -> str:
        """Name of that setting, for a message."""
        ...

    @property
    def probes_grammar(self) -> bool:
        """Whether its start is only done once it has proven that a JSON schema constrains it."""
        ...

    @property
    def loads_gguf(self) -> bool:
        """Whether it may take an adapter's published GGUF form in place of converting its directory anew."""
        ...

    async def start(self, place: Place) -> Start:
        """Its command line and environment; first makes what it needs, which may take minutes.

        Raises:
            BackendUnavailableError: it is not installed; says how to get it.
            ModelNotFoundError, EnvironmentUnfitError: it has no model to serve.
        """
        ...

    def check_adapter(self, directory: str) -> str:
        """Refuse what the server would not refuse by itself; gives the digest of the bytes. Blocks.

        Raises:
            AdapterRejectedError
        """
        ...

    async def sleep(self, provider: OpenAIProvider) -> int:
        """Put the server to sleep; gives the level, which its wake is told.

        Raises:
            ProviderError
        """
        ...

    async def wake(self, provider: OpenAIProvider, level: int) -> None:
        """Wake it from that level.

        Raises:
            ProviderError
        """
        ...


def inherited(*further: str) -> dict[str, str]:
    """What a child may see of our environment."""
    return {name: os.environ[name] for name in (*INHERITED, *further) if name in os.environ}


async def put_to_sleep(provider: OpenAIProvider, level: int) -> None:
    """Ask for sleep and believe only what the server then says of itself.

    Running requests are aborted: none is ever left parked in a sleeping server. The parameters go in the query,
    since vLLM ignores a body.

    Raises:
        ProviderError
    """
    await _ask(provider, f"/sleep?level={level}&mode=abort")
    if not await provider.is_sleeping():
        raise ProviderError("The model server answered that it sleeps, and says that it is awake.")


async def wake_up(provider: OpenAIProvider, *, reload_weights: bool = False) -> None:
    """Ask for everything back and believe only what the server then says of itself.

    It can be repeated after a failure: what is awake already stays so.

    Args:
        reload_weights: it slept at level 2 and has no weights to come back to. Without this step vLLM wakes with 200
            and speaks garbage (#54235).

    Raises:
        ProviderError
    """
    if reload_weights:
        await _ask(provider, "/wake_up?tags=weights")
        await _ask(provider, "/collective_rpc", {"method": "reload_weights"})
        await _ask(provider, "/wake_up?tags=kv_cache")
        await _ask(provider, "/reset_prefix_cache")
    # Without tags: with a tag that is awake already the whole call does nothing and answers 200.
    status = (await _ask(provider, "/wake_up")).get("status")
    if status != "awake":
        status = (await _ask(provider, "/wake_up")).get("status")
    if status != "awake":
        raise ProviderError(f"The model server was woken twice and says {status!r}.")
    if await provider.is_sleeping():
        raise ProviderError("The model server answered that it is awake, and says that it sleeps.")


async def _ask(provider: OpenAIProvider, path: str, body: dict[str, object] | None = None) -> Mapping[str, object]:
    response = await provider.call("POST", path, body, timeout_s=HANDOVER_SECONDS)
    if response.status_code != 200:
        raise ProviderError(f"The model server answered {path} with {response.status_code}: {response.text[:500]}")
    try:
        return dict(response.json())
    except (ValueError, TypeError):  # some answers of vLLM have no body
        return {}
