"""The one client of every model server: the OpenAI library over a Unix socket or loopback.

The library brings streaming, retries with exponential backoff (connection errors, 408, 409, 429, 5xx) and typed
errors. It is imported on first use, because the import costs 0.7 s; `import_library` does that in good time.
"""

from __future__ import annotations

import asyncio
import importlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from contextlib import AsyncExitStack, aclosing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from engine.errors import (
    AdapterRejectedError,
    AdapterUnsupportedError,
    ContextOverflowError,
    ProviderError,
    ProviderTimeoutError,
)
from engine.inference.provider import Capabilities, Completion, Delta, FinishReason, Health, Request

if TYPE_CHECKING:
    import httpx2
    import openai

UNIX_SCHEME = "unix://"
EVENT, DONE = "data: ", "data: [DONE]"
"""How a line of an answer begins, and the last one."""
CONNECT_SECONDS = 5.0
"""A local server accepts at once or is not there."""
ADMIN_SECONDS = 60.0
"""Adapter and health calls: converting the largest adapter takes seconds."""
MAX_CONNECTIONS = 64
_FINISH: dict[str | None, FinishReason] = {"stop": "stop", "length": "length", "abort": "cancelled"}


@dataclass(frozen=True)
class Endpoint:
    """Where a model server is and how it is asked."""

    kind: str
    """Its backend: llamacpp, scripted, ..."""
    url: str
    """`unix:///path/to.sock` or `http://127.0.0.1:port`."""
    model: str
    """Name of the base model in requests."""
    key: str
    capabilities: Capabilities
    timeout_s: float
    """Of one answer from first byte to last, all tries together."""
    retries: int


def import_library() -> None:
    """Import what the first request would: 0.7 s that block. Call it in a thread."""
    for name in ("openai.resources.chat.completions", "httpx2", "httpcore2"):
        importlib.import_module(name)


class OpenAIProvider:
    """A `Provider` over the house protocol. Use it on one event loop; close it with `aclose`."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._adapters: frozenset[str] = frozenset()

    @property
    def capabilities(self) -> Capabilities:
        return self._endpoint.capabilities

    async def generate(self, request: Request) -> Completion:
        """The whole answer; cancelling the call cancels the generation.

        Raises:
            ProviderError, ProviderTimeoutError, ContextOverflowError, AdapterUnsupportedError
        """
        body = self._body(request)
        with self._translated():
            async with asyncio.timeout(self._endpoint.timeout_s):
                answer = await self._client.chat.completions.create(**body, stream=False)
        choice, usage = answer.choices[0], answer.usage
        return Completion(
            text=choice.message.content or "",
            model=self._endpoint.model,
            adapter=request.adapter,
            prompt_tokens=usage.prompt_tokens if usage else 0,
            completion_tokens=usage.completion_tokens if usage else 0,
            finish_reason=_FINISH.get(choice.finish_reason, "stop"),
            served=answer.model,
        )

    def stream(self, request: Request) -> AsyncIterator[Delta]:
        """The answer in pieces; closing the iterator cancels the generation on the server.

        Raises:
            ProviderError, ProviderTimeoutError, ContextOverflowError, AdapterUnsupportedError
        """
        return self._deltas(self._body(request))

    async def _deltas(self, body: dict[str, Any]) -> AsyncGenerator[Delta, None]:
        deadline = asyncio.get_running_loop().time() + self._endpoint.timeout_s
        finish: FinishReason | None = None
        prompt_tokens = completion_tokens = 0
        async with aclosing(self._chunks(body, deadline)) as chunks:
            async for chunk in chunks:
                if usage := chunk.get("usage"):
                    prompt_tokens, completion_tokens = usage["prompt_tokens"], usage["completion_tokens"]
                for choice in chunk["choices"]:
                    if choice.get("finish_reason") is not None:
                        finish = _FINISH.get(choice["finish_reason"], "stop")
                    if text := choice["delta"].get("content"):
                        yield Delta(text)
        if finish is None:
            raise ProviderError("The model server ended the answer before its end; its log says why.")
        yield Delta("", finish, prompt_tokens, completion_tokens)

    async def _chunks(self, body: dict[str, Any], deadline: float) -> AsyncGenerator[dict[str, Any], None]:
        """The chunks, as they stand on the wire: to make the library's models of them takes longer than all the rest.

        A timeout may not span a `yield`: it would cancel the consumer instead of this wait.
        """
        body = body | {"stream": True, "stream_options": {"include_usage": True}}
        create = self._client.chat.completions.with_streaming_response.create
        async with AsyncExitStack() as stack:
            with self._translated():
                async with asyncio.timeout_at(deadline):
                    response = await stack.enter_async_context(create(**body))
            lines = await stack.enter_async_context(aclosing(_lines(response.iter_bytes())))
            while True:
                with self._translated():
                    async with asyncio.timeout_at(deadline):
                        line = await anext(lines, None)
                if line is None:
                    return
                if (chunk := _event(line)) is not None:
                    yield chunk

    def _body(self, request: Request) -> dict[str, Any]:
        if request.adapter is not None:
            self._require_adapters()
        sampling = request.sampling
        body: dict[str, Any] = {
            "model": request.adapter or self._endpoint.model,
            "messages": [{"role": message.role, "content": message.content} for message in request.messages],
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": sampling.seed,
            "extra_body": {"repetition_penalty": sampling.repetition_penalty},
        }
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        if request.json_schema is not None:
            schema = {"name": "answer", "schema": request.json_schema}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return body

    async def load_adapter(self, name: str, path: str, gguf_sha256: str | None = None) -> None:
        """Make the adapter directory at `path` selectable as `name`.

        Args:
            gguf_sha256: digest of the GGUF form that was published in that directory; only our llama.cpp sidecar
                knows what to do with it.

        Raises:
            AdapterRejectedError: not acceptable for this base, or the name is taken by other bytes.
            AdapterUnsupportedError, ProviderError
        """
        self._require_adapters()
        body = {"lora_name": name, "lora_path": path} | ({"gguf_sha256": gguf_sha256} if gguf_sha256 else {})
        response = await self.call("POST", "/v1/load_lora_adapter", body)
        if response.status_code != 200 and not await self._holds(name, path, response):
            raise _adapter_error(name, response)
        self._adapters |= {name}

    async def unload_adapter(self, name: str) -> None:
        """Forget the adapter; one that is not loaded is no error.

        Raises:
            AdapterUnsupportedError, ProviderError
        """
        self._require_adapters()
        response = await self.call("POST", "/v1/unload_lora_adapter", {"lora_name": name})
        if response.status_code not in (200, 400, 404):
            raise _adapter_error(name, response)
        self._adapters -= {name}

    async def list_adapters(self) -> tuple[str, ...]:
        """Names, sorted, as the server reports them; what was tracked here gives way to it."""
        if not self.capabilities.adapters:
            return ()
        self._adapters = frozenset(await self._served())
        return tuple(sorted(self._adapters))

    async def health(self) -> Health:
        """Whether it answers and is awake, and which adapters it has. A server that is not there is not ready."""
        try:
            response = await self.call("GET", "/health")
            adapters = await self.list_adapters() if response.status_code == 200 else ()
            asleep = self.capabilities.sleep and await self.is_sleeping()
        except ProviderError:
            return Health(ready=False, backend=self._endpoint.kind, model=self._endpoint.model)
        ready = response.status_code == 200 and not asleep
        return Health(ready=ready, backend=self._endpoint.kind, model=self._endpoint.model, adapters=adapters)

    async def is_sleeping(self) -> bool:
        """What the server says of itself.

        Raises:
            ProviderError
        """
        response = await self.call("GET", "/is_sleeping")
        _require_ok(response)
        return bool(response.json()["is_sleeping"])

    async def aclose(self) -> None:
        """Close the connections; a provider that was never used has none."""
        if "_http" in self.__dict__:
            await self._http.aclose()

    async def _served(self) -> dict[str, str]:
        """Adapter name -> path, as the server says."""
        response = await self.call("GET", "/v1/models")
        _require_ok(response)
        return {entry["id"]: entry["root"] for entry in response.json()["data"] if entry.get("parent")}

    async def _holds(self, name: str, path: str, response: httpx2.Response) -> bool:
        """vLLM refuses a name that is loaded already, even with the same weights; that is no error for us."""
        taken = response.status_code == 400 and "already been loaded" in response.text
        return taken and (await self._served()).get(name) == path

    async def call(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, timeout_s: float = ADMIN_SECONDS
    ) -> httpx2.Response:
        """One call as it is, for those who run the server; any status is an answer.

        Raises:
            ProviderError: the server is not there, or breaks off.
            ProviderTimeoutError
        """
        import httpx2

        try:
            return await self._http.request(method, self._base + path, json=body, timeout=timeout_s)
        except httpx2.TimeoutException as error:
            raise ProviderTimeoutError(f"The model server did not answer {path} in {timeout_s:.0f} s.") from error
        except httpx2.HTTPError as error:
            raise ProviderError(f"The model server does not answer {path}: {error or type(error).__name__}") from error

    def _require_adapters(self) -> None:
        if not self.capabilities.adapters:
            raise AdapterUnsupportedError(f"The {self._endpoint.kind} backend cannot use adapters.")

    @property
    def _base(self) -> str:
        return "http://sidecar" if self._endpoint.url.startswith(UNIX_SCHEME) else self._endpoint.url.rstrip("/")

    @cached_property
    def _http(self) -> httpx2.AsyncClient:
        import httpx2

        url = self._endpoint.url
        path = url.removeprefix(UNIX_SCHEME) if url.startswith(UNIX_SCHEME) else None
        limits = httpx2.Limits(max_connections=MAX_CONNECTIONS)
        # Unix sockets and loopback only, so no TLS: reading the certificates would block the loop for nothing.
        transport = httpx2.AsyncHTTPTransport(uds=path, limits=limits, verify=False)
        return httpx2.AsyncClient(
            transport=transport,
            headers={"Authorization": f"Bearer {self._endpoint.key}"},
            timeout=httpx2.Timeout(self._endpoint.timeout_s, connect=CONNECT_SECONDS),
            trust_env=False,
        )

    @cached_property
    def _client(self) -> openai.AsyncOpenAI:
        import openai

        return openai.AsyncOpenAI(
            api_key=self._endpoint.key,
            base_url=f"{self._base}/v1",
            max_retries=self._endpoint.retries,
            timeout=self._http.timeout,
            http_client=self._http,
        )

    @contextmanager
    def _translated(self) -> Generator[None, None, None]:
        """The library's errors become ours."""
        import httpx2
        import openai

        try:
            yield
        except (TimeoutError, openai.APITimeoutError) as error:
            raise ProviderTimeoutError from error
        except openai.BadRequestError as error:
            if "context length" in str(error):
                raise ContextOverflowError(_message(error)) from error
            raise ProviderError(f"The model server refused the request: {_message(error)}") from error
        except (openai.APIError, httpx2.HTTPError) as error:
            raise ProviderError(f"The model server failed: {_message(error)}") from error


async def _lines(pieces: AsyncIterator[bytes]) -> AsyncGenerator[str, None]:
    """Lines as server-sent events end them, whole characters only; what no line end follows is no event.

    The library's own split ends a line at U+2028, U+2029 and U+0085 too, which vLLM leaves raw in its JSON.
    """
    rest = b""
    async for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            yield line.removesuffix(b"\r").decode("utf-8", "replace")


def _event(line: str) -> dict[str, Any] | None:
    """The object of a line of server-sent events; None for a blank line and for the end's mark.

    Raises:
        ProviderError: the server failed in the middle of its answer.
    """
    if not line.startswith(EVENT) or line == DONE:
        return None
    chunk: dict[str, Any] = json.loads(line.removeprefix(EVENT))
    if error := chunk.get("error"):
        raise ProviderError(f"The model server failed: {error.get('message', error)}")
    return chunk


def _message(error: Exception) -> str:
    body = getattr(error, "body", None)
    return str(body["message"]) if isinstance(body, dict) and "message" in body else str(error) or type(error).__name__


def _require_ok(response: httpx2.Response) -> None:
    if response.status_code != 200:
        raise ProviderError(f"The model server answered {response.status_code}: {_error_text(response)}")


def _adapter_error(name: str, response: httpx2.Response) -> ProviderError | AdapterRejectedError:
    if response.status_code in (401, 503):
        return ProviderError(f"The model server answered {response.status_code}: {_error_text(response)}")
    # vLLM answers 500 to every adapter that fails its checks, so a 500 here is about the adapter too.
    return AdapterRejectedError(f"Adapter {name}: {_error_text(response)}")


def _error_text(response: httpx2.Response) -> str:
    try:
        error = response.json()["error"]
    except (ValueError, KeyError, TypeError):
        return response.text[:500]
    return str(error["message"] if isinstance(error, dict) else error)
