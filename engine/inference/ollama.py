"""A `Provider` over an Ollama server, by its own client library. The server is the user's: it is borrowed, not started.

It cannot use adapters, so a request that wants one is refused before anything is sent. Sleep is `keep_alive: 0`,
with which Ollama unloads the model. Loopback only: no proxy of the environment, no redirect.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

from engine.errors import AdapterUnsupportedError, ContextOverflowError, ProviderError, ProviderTimeoutError
from engine.inference.openai_client import CONNECT_SECONDS, Endpoint
from engine.inference.provider import Capabilities, Completion, Delta, FinishReason, Health, Request

if TYPE_CHECKING:
    import ollama

ADMIN_SECONDS = 60.0
"""Listing, loading and unloading: loading a large model from a disk takes the longest."""
UNLOAD_POLL_SECONDS = 0.1
PENALTY_WINDOW = 64
"""Tokens that the repetition penalty looks back, as in our own servers."""
_FINISH: dict[str | None, FinishReason] = {"stop": "stop", "length": "length"}


class OllamaProvider:
    """A `Provider`. Use it on one event loop; close it with `aclose`."""

    def __init__(self, endpoint: Endpoint, context_tokens: int) -> None:
        """Sends nothing.

        Args:
            context_tokens: of one request; without it Ollama cuts long prompts off at a default of its own.
        """
        self._endpoint = endpoint
        self._context = context_tokens
        self._connected: ollama.AsyncClient | None = None

    @property
    def capabilities(self) -> Capabilities:
        return self._endpoint.capabilities

    async def generate(self, request: Request) -> Completion:
        """The whole answer; cancelling the call cancels the generation.

        Raises:
            ProviderError, ProviderTimeoutError, ContextOverflowError, AdapterUnsupportedError
        """
        text: list[str] = []
        last = Delta("")
        # Streamed, because Ollama notices only then that its client has gone.
        async with aclosing(self._deltas(self._body(request))) as deltas:
            async for last in deltas:
                text.append(last.text)
        return Completion(
            text="".join(text),
            model=self._endpoint.model,
            adapter=None,
            prompt_tokens=last.prompt_tokens,
            completion_tokens=last.completion_tokens,
            finish_reason=last.finish_reason or "stop",
        )

    def stream(self, request: Request) -> AsyncIterator[Delta]:
        """The answer in pieces; closing the iterator cancels the generation on the server.

        Raises:
            ProviderError, ProviderTimeoutError, ContextOverflowError, AdapterUnsupportedError
        """
        return self._deltas(self._body(request))

    async def _deltas(self, body: dict[str, Any]) -> AsyncGenerator[Delta, None]:
        deadline = asyncio.get_running_loop().time() + self._endpoint.timeout_s
        client = await self._client()
        with self._translated():
            async with asyncio.timeout_at(deadline):
                chunks = await client.chat(**body, stream=True)
        while True:
            # A timeout may not span a `yield`: it would cancel the consumer instead of this wait.
            with self._translated():
                async with asyncio.timeout_at(deadline):
                    chunk = await anext(chunks, None)
            if chunk is None:
                raise ProviderError("Ollama ended the answer before its end; its log says why.")
            if chunk.message.content:
                yield Delta(chunk.message.content)
            if chunk.done:
                break
        finish = _FINISH.get(chunk.done_reason, "stop")
        yield Delta("", finish, chunk.prompt_eval_count or 0, chunk.eval_count or 0)

    def _body(self, request: Request) -> dict[str, Any]:
        if request.adapter is not None:
            raise AdapterUnsupportedError
        sampling = request.sampling
        options: dict[str, Any] = {
            "num_ctx": self._context,
            "num_predict": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": 0,  # Ollama's default of 40 would be a second cut that nobody asked for
            "repeat_penalty": sampling.repetition_penalty,
            "repeat_last_n": PENALTY_WINDOW,
            "seed": sampling.seed,
        }
        if sampling.stop:
            options["stop"] = list(sampling.stop)
        body: dict[str, Any] = {
            "model": self._endpoint.model,
            "messages": [{"role": message.role, "content": message.content} for message in request.messages],
            "options": options,
        }
        return body if request.json_schema is None else body | {"format": request.json_schema}

    async def load_adapter(self, name: str, path: str) -> None:
        """Refuse.

        Raises:
            AdapterUnsupportedError
        """
        raise AdapterUnsupportedError

    async def unload_adapter(self, name: str) -> None:
        """Refuse.

        Raises:
            AdapterUnsupportedError
        """
        raise AdapterUnsupportedError

    async def list_adapters(self) -> tuple[str, ...]:
        """There are none."""
        return ()

    async def health(self) -> Health:
        """Whether it answers and has the model on its disk."""
        try:
            async with self._call() as client:
                listed = await client.list()
            ready = any(self._is_ours(entry.model) for entry in listed.models)
        except ProviderError:
            ready = False
        return Health(ready=ready, backend=self._endpoint.kind, model=self._endpoint.model)

    async def sleep(self, level: int = 1) -> None:
        """Have the model unloaded; returns when Ollama lists it no more.

        Raises:
            ProviderError
        """
        async with self._call() as client:
            await client.generate(model=self._endpoint.model, keep_alive=0)
            while await self._loaded(client):  # noqa: ASYNC110 # Ollama tells nobody when it is done
                await asyncio.sleep(UNLOAD_POLL_SECONDS)

    async def wake(self) -> None:
        """Have the model loaded.

        Raises:
            ProviderError
        """
        async with self._call() as client:
            await client.generate(model=self._endpoint.model, options={"num_ctx": self._context})

    async def is_sleeping(self) -> bool:
        """Whether the model is not in memory; Ollama also unloads it by itself, and loads it when it is asked.

        Raises:
            ProviderError
        """
        async with self._call() as client:
            return not await self._loaded(client)

    async def aclose(self) -> None:
        """Close the connections; a provider that was never used has none."""
        if self._connected is not None:
            await self._connected.close()

    async def _loaded(self, client: ollama.AsyncClient) -> bool:
        return any(self._is_ours(entry.model) for entry in (await client.ps()).models)

    def _is_ours(self, name: str | None) -> bool:
        """Ollama adds the tag that means no tag."""
        return name in (self._endpoint.model, f"{self._endpoint.model}:latest")

    async def _client(self) -> ollama.AsyncClient:
        """The library's client; importing it blocks, so that is done in a thread, once."""
        if self._connected is None:
            client = await asyncio.to_thread(self._connect)
            self._connected = self._connected or client
        return self._connected

    def _connect(self) -> ollama.AsyncClient:
        import httpx
        import ollama

        timeout = httpx.Timeout(self._endpoint.timeout_s, connect=CONNECT_SECONDS)
        # Loopback without TLS: no proxy, no redirect to elsewhere, no certificates to read.
        return ollama.AsyncClient(
            self._endpoint.url, timeout=timeout, trust_env=False, follow_redirects=False, verify=False
        )

    @asynccontextmanager
    async def _call(self) -> AsyncGenerator[ollama.AsyncClient, None]:
        """A call that is not a generation."""
        client = await self._client()
        with self._translated():
            async with asyncio.timeout(ADMIN_SECONDS):
                yield client

    @contextmanager
    def _translated(self) -> Generator[None, None, None]:
        """The library's errors become ours."""
        import httpx
        import ollama

        try:
            yield
        except (TimeoutError, httpx.TimeoutException) as error:
            raise ProviderTimeoutError from error
        except ollama.ResponseError as error:
            if "context length" in error.error:
                raise ContextOverflowError(error.error) from error
            raise ProviderError(f"Ollama refused the request ({error.status_code}): {error.error}") from error
        except (ConnectionError, httpx.HTTPError) as error:
            raise ProviderError(f"No Ollama server answers at {self._endpoint.url}; start `ollama serve`.") from error
