"""An Ollama server: it is the user's, so it is neither started nor ended; it only loads its model and gives it back.

It cannot use adapters. It unloads its model by itself too, and loads it when it is asked: it is borrowed, and what it
holds is not ours to prove.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial

from engine.api_device import BackendName
from engine.config import Config
from engine.device.contracts import LiveAdapter, Oracle, ProcessId
from engine.errors import AdapterUnsupportedError, BackendUnavailableError, ProviderError
from engine.inference import oracle as answers
from engine.inference.factory import CAPABILITIES, ProviderFactory
from engine.inference.ollama import OllamaProvider

LOOK_SECONDS = 5.0
"""Between two looks at whether it is there: nobody tells of its end."""
NO_KEY = ""
"""Ollama knows none; it listens on loopback."""

log = logging.getLogger(__name__)


class OllamaServer:
    """A model server that is not ours. Implements `engine.device.contracts.Server`."""

    def __init__(self, config: Config) -> None:
        """Sends nothing."""
        self._config = config
        self._factory = ProviderFactory(partial(OllamaProvider, context_tokens=config.model.context_tokens))
        self._provider: OllamaProvider | None = None

    @property
    def backend(self) -> BackendName:
        return BackendName.OLLAMA

    @property
    def can_sleep(self) -> bool:
        return CAPABILITIES[self.backend].sleep

    @property
    def can_load_adapters(self) -> bool:
        return CAPABILITIES[self.backend].adapters

    @property
    def need_mib(self) -> int:
        """Nothing that is ours to prove: Ollama decides where its model goes, and how much of it."""
        return 0

    @property
    def process(self) -> ProcessId | None:
        """None: its process is the user's."""
        return None

    @property
    def provider(self) -> OllamaProvider:
        """What requests are sent to, from its start to its stop.

        Raises:
            ProviderError: it is not in use.
        """
        if self._provider is None:
            raise ProviderError("The Ollama server is not in use.")
        return self._provider

    async def start(self, epoch: int) -> None:
        """See that it is there and has the model, and have it loaded.

        Raises:
            BackendUnavailableError: it is not there, or has no such model.
            ProviderError: it cannot load it.
        """
        settings, inference = self._config.ollama, self._config.inference
        if not settings.model:
            raise BackendUnavailableError("Set ollama.model in config.toml to a model that your Ollama server has.")
        provider = self._factory.create_provider(
            self.backend,
            url=settings.url,
            model=settings.model,
            key=NO_KEY,
            timeout_s=inference.request_timeout_s,
            retries=inference.connect_retries,
        )
        try:
            await self._have_it_loaded(provider)
        except BaseException:
            await self._factory.aclose()
            raise
        self._provider = provider

    async def _have_it_loaded(self, provider: OllamaProvider) -> None:
        if not (await provider.health()).ready:
            model = self._config.ollama.model
            raise BackendUnavailableError(
                f"No Ollama server at {self._config.ollama.url} has {model}: start `ollama serve`, "
                f"and get it with `ollama pull {model}`."
            )
        await provider.wake()

    async def stop(self) -> None:
        """Have it unload the model, if it is there, and forget it."""
        provider, self._provider = self._provider, None
        if provider is None:
            return
        try:
            await provider.sleep()
        except ProviderError as error:  # then it holds nothing that we could ask back
            log.warning("Ollama did not unload its model: %s", error)
        finally:
            await self._factory.aclose()

    async def sleep(self) -> None:
        """Have it unload the model: `keep_alive` 0."""
        await self.provider.sleep()

    async def wake(self) -> None:
        """Have it load the model."""
        await self.provider.wake()

    async def load_adapter(self, adapter: LiveAdapter) -> None:
        """Refuse.

        Raises:
            AdapterUnsupportedError
        """
        raise AdapterUnsupportedError("Ollama cannot use adapters; choose vllm, llamacpp or transformers.")

    async def unload_adapter(self, name: str) -> None:
        """There is none."""

    async def record(self, adapters: tuple[LiveAdapter, ...], *, base: bool = True) -> Oracle:
        """The base's greedy answer, as text: Ollama's client gives no log-probabilities."""
        name = self._config.model.base_id
        return await answers.record(self.provider, [name] if base else [], self._config.device.oracle_tokens, base=name)

    async def verify(self, oracle: Oracle) -> None:
        """Compare with what was recorded.

        Raises:
            OracleMismatchError, ProviderError
        """
        device = self._config.device
        await answers.verify(self.provider, oracle, device.oracle_tokens, device.oracle_logprob)

    async def died(self) -> str:
        """Return, with the reason, once it does not answer any more."""
        provider = self._provider
        if provider is None:
            return "The Ollama server is not in use."
        while (await provider.health()).ready:  # noqa: ASYNC110 # nobody tells of its end
            await asyncio.sleep(LOOK_SECONDS)
        if self._provider is not provider:  # given back meanwhile: whoever waits is told nothing
            await asyncio.Event().wait()
        return f"The Ollama server at {self._config.ollama.url} does not answer any more."
