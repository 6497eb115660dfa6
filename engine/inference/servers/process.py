"""The common part of every model server that is a process of ours.

    gone ──start(epoch)──► starting ──/health answers, the grammar fires──► up ──sleep / wake──► up
      ▲                       │ it ends, is too slow, or ignores a schema    │
      └───────stop()──────────┴───────────────stop()─────────────────────────┘   (died() tells of an end by itself)

There is no lock: the owner of the device is the only caller, and calls one thing at a time. Each start has an epoch,
a key and a socket of its own, so a server of an earlier one cannot be mistaken for it.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from engine.api_device import BackendName
from engine.config import Config
from engine.device.contracts import LiveAdapter, Oracle, ProcessId
from engine.device.guarded import Command, Guarded, spawn
from engine.device.lock import DeviceLock
from engine.errors import AdapterRejectedError, AdapterUnsupportedError, ProviderError, ProviderTimeoutError
from engine.inference import oracle as answers
from engine.inference.factory import CAPABILITIES, ProviderFactory
from engine.inference.openai_client import OpenAIProvider, import_library
from engine.inference.provider import Message, Request, Sampling
from engine.inference.servers.recipe import Place, Recipe, Start
from engine.logs import tail
from registry.files import run_to_end

FIRST_POLL_S = 0.05
"""Between two looks at a starting server: short against the scripted one's 0.5 s ..."""
LONGEST_POLL_S = 0.5
"""... and growing to this, long against the cost of a look while vLLM imports for minutes."""
TAIL_BYTES = 2000
"""Of the log, in an error message."""
MAX_SOCKET_PATH = 100
"""The kernel's limit for a Unix socket's path is 107 bytes."""
ROLE = "server"
"""Of its guardian's record: one model server at a time, whichever backend."""
FOLDER, SOCKET = "server-", "model.sock"
"""In RUNE_HOME/run: a folder for each epoch, and the socket in it."""
KEY_BYTES = 32
PROBE_TOKENS = 48
PROBE_SCHEMA = {
    "type": "object",
    "properties": {"rune": {"const": "kept"}},
    "required": ["rune"],
    "additionalProperties": False,
}
"""Nothing that a model says by itself. A server that ignores schemas answers 200 and free text (vLLM #53975)."""


class ProcessServer:
    """A model server as a child process. Implements `engine.device.contracts.Server`."""

    def __init__(self, recipe: Recipe, config: Config, home: Path, lock: Callable[[], DeviceLock | None]) -> None:
        """Starts nothing.

        Args:
            lock: the device's, asked for at each start; None for a server that uses no device.
        """
        self._recipe = recipe
        self._config = config
        self._home = home
        self._lock = lock
        self._log = home / "logs" / "model-server.log"
        self._child: Guarded | None = None
        self._place: Place | None = None
        self._factory = ProviderFactory(OpenAIProvider)
        self._provider: OpenAIProvider | None = None
        self._digests: dict[str, str] = {}
        self._level = 0
        self._grace_s = 0.0
        self._most_adapters: int | None = None
        self._stopping = False

    @property
    def backend(self) -> BackendName:
        return self._recipe.backend

    @property
    def can_sleep(self) -> bool:
        return CAPABILITIES[self.backend].sleep

    @property
    def can_load_adapters(self) -> bool:
        return CAPABILITIES[self.backend].adapters

    @property
    def need_mib(self) -> int:
        return self._recipe.need_mib

    @property
    def process(self) -> ProcessId | None:
        return self._child.process if self._child is not None and not self._child.ended else None

    @property
    def pid(self) -> int | None:
        """Of the server itself, while it lives."""
        return self._child.child_pid if self._child is not None and not self._child.ended else None

    @property
    def provider(self) -> OpenAIProvider:
        """What requests are sent to, from its start to its stop.

        Raises:
            ProviderError: it is not running.
        """
        if self._provider is None:
            raise ProviderError(f"The {self.backend} server is not running.")
        return self._provider

    async def start(self, epoch: int) -> None:
        """Start it and return when it answers. What remains of an earlier start is ended first.

        Raises:
            BackendUnavailableError, ModelNotFoundError, EnvironmentUnfitError: trying again cannot help.
            ProviderError: it did not come up; the message has the end of its log. Nothing of it is left.
        """
        await self.stop()
        try:
            await self._start(epoch)
        except BaseException:  # cancelled or failed: half a server is never left behind
            await self.stop()
            raise

    async def _start(self, epoch: int) -> None:
        place = self._place = await run_to_end(lambda: self._make_place(epoch))
        start = await self._recipe.start(place)
        self._grace_s, self._most_adapters = start.grace_s, start.most_adapters
        child = self._child = await spawn(self._command(start, epoch))
        self._stopping = False
        # The client library takes 0.7 s to import: that is done in a thread while the child loads its model.
        await asyncio.to_thread(import_library)
        provider = self._provider = self._connect(start.url, place.key)
        limit = self._recipe.start_timeout_s
        try:
            async with asyncio.timeout(limit):
                await self._await_ready(child, provider)
                if self._recipe.probes_grammar:
                    await _probe_grammar(provider)
        except TimeoutError as error:
            raise ProviderTimeoutError(
                f"The model server was not ready after {limit:.0f} s ({self._recipe.timeout_key}). {await self._end()}"
            ) from error

    def _command(self, start: Start, epoch: int) -> Command:
        return Command(
            role=ROLE,
            argv=start.argv,
            env=start.env,
            log=self._log,
            records=self._home / "run" / "guardians",
            epoch=epoch,
            term_grace_s=start.grace_s,
            lock=self._lock(),
        )

    def _make_place(self, epoch: int) -> Place:
        run = self._home / "run"
        run.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in run.glob(f"{FOLDER}*"):  # of an engine that was killed: no other server runs beside this one
            shutil.rmtree(left, ignore_errors=True)
        folder = run / f"{FOLDER}{epoch}"
        if len(os.fsencode(folder / SOCKET)) > MAX_SOCKET_PATH:  # then one that nobody can guess and occupy
            folder = Path(tempfile.gettempdir()) / f"rune-{secrets.token_hex(16)}"
        folder.mkdir(mode=0o700)
        return Place(folder, folder / SOCKET, f"rune-{epoch}-{secrets.token_hex(KEY_BYTES)}")

    def _connect(self, url: str, key: str) -> OpenAIProvider:
        inference = self._config.inference
        return self._factory.create_provider(
            self.backend,
            url=url,
            model=self._config.model.base_id,
            key=key,
            timeout_s=inference.request_timeout_s,
            retries=inference.connect_retries,
        )

    async def _await_ready(self, child: Guarded, provider: OpenAIProvider) -> None:
        pause = FIRST_POLL_S
        while not (await provider.health()).ready:
            if child.ended:
                reason = (await child.wait()).reason
                raise ProviderError(f"The model server {reason} while it started. {await self._end()}")
            await asyncio.sleep(pause)
            pause = min(pause * 1.2, LONGEST_POLL_S)

    async def stop(self) -> None:
        """End its whole tree and forget its provider, its socket and its folder. Also when it never ran."""
        self._stopping = True  # before anything is awaited: `died` must not take the end for one of its own
        self._provider = None
        try:
            await self._factory.aclose()
        finally:
            if self._child is not None:
                await self._child.stop(self._grace_s)
                self._child = None
            if self._place is not None:
                place, self._place = self._place, None
                await run_to_end(lambda: shutil.rmtree(place.folder, ignore_errors=True))
            self._digests.clear()

    async def sleep(self) -> None:
        """Ask it to give its memory back; returns when it says that it sleeps.

        Raises:
            ProviderError: it did not, or cannot now; its memory is in an unknown state.
        """
        self._level = await self._recipe.sleep(self.provider)

    async def wake(self) -> None:
        """Ask it to take its memory back; returns when it says that it is awake.

        Raises:
            ProviderError: it did not; it must be stopped, or asked again once there is memory.
        """
        await self._recipe.wake(self.provider, self._level)

    async def load_adapter(self, adapter: LiveAdapter) -> None:
        """Make an adapter selectable; one that is already held is left alone.

        A name stands for one set of bytes as long as the server lives, unloaded or not: caches are keyed by the name.

        Raises:
            AdapterRejectedError: it is not acceptable, or its name has stood for other bytes.
            AdapterUnsupportedError, ProviderError
        """
        provider = self.provider
        if not self.can_load_adapters:
            raise AdapterUnsupportedError(f"The {self.backend} backend cannot use adapters.")
        if adapter.name == self._config.model.base_id:
            raise AdapterRejectedError(f"Adapter {adapter.name}: that is the name of the base model.")
        digest = await run_to_end(lambda: self._recipe.check_adapter(adapter.directory))
        known = self._digests.get(adapter.name)
        if known not in (None, digest):
            raise AdapterRejectedError(f"Adapter {adapter.name}: this name has already been loaded with other weights.")
        # Noted before it is sent: a call that is cancelled or breaks off may have reached the server all the same.
        self._digests[adapter.name] = digest
        held = await provider.list_adapters()
        if adapter.name in held:
            return
        if self._most_adapters is not None and len(held) >= self._most_adapters:
            raise ProviderError(
                f"Adapter {adapter.name}: the {self.backend} server holds {len(held)}, as many as it has room for "
                "(inference.max_adapters and inference.parallel); try again when one of them is not in use."
            )
        try:
            await provider.load_adapter(
                adapter.name, adapter.directory, adapter.gguf_sha256 if self._recipe.loads_gguf else None
            )
        except AdapterRejectedError:
            if known is None:
                del self._digests[adapter.name]
            raise

    async def unload_adapter(self, name: str) -> None:
        """Forget an adapter; one that is not loaded is no error."""
        await self.provider.unload_adapter(name)

    async def record(self, adapters: tuple[LiveAdapter, ...], *, base: bool = True) -> Oracle:
        """Greedy tokens of the base, unless it is left out, and of each adapter, as they are now.

        Raises:
            ProviderError
        """
        name, names = self._config.model.base_id, [adapter.name for adapter in adapters]
        return await answers.record(
            self.provider, [name, *names] if base else names, self._config.device.oracle_tokens, base=name
        )

    async def verify(self, oracle: Oracle) -> None:
        """Compare with what was recorded.

        Raises:
            OracleMismatchError, ProviderError
        """
        device = self._config.device
        await answers.verify(self.provider, oracle, device.oracle_tokens, device.oracle_logprob)

    async def died(self) -> str:
        """Return, with the reason, once the started process is gone without `stop` having been called."""
        child = self._child
        if child is None:
            return f"The {self.backend} server is not running."
        reason = (await child.wait()).reason
        if self._stopping or self._child is not child:  # it was told to: whoever waits is told nothing
            await asyncio.Event().wait()
        return f"The model server {reason}. {await self._end()}"

    async def _end(self) -> str:
        """What its log says at its end."""
        end = await run_to_end(lambda: tail(self._log, TAIL_BYTES))
        return f"{self._log} ends: {end}" if end else f"{self._log} says nothing."


async def _probe_grammar(provider: OpenAIProvider) -> None:
    """One answer under a schema. It is the warm-up too: the first answer after a start is the slowest.

    Raises:
        ProviderError: the schema did not constrain it.
    """
    greedy = Sampling(max_tokens=PROBE_TOKENS, temperature=0.0, top_p=1.0, repetition_penalty=1.0, seed=0)
    request = Request((Message("user", "Say something."),), greedy, json_schema=PROBE_SCHEMA)
    text = (await provider.generate(request)).text
    try:
        followed = json.loads(text) == {"rune": "kept"}
    except ValueError:
        followed = False
    if not followed:
        raise ProviderError(f"The model server does not follow a JSON schema: it said {text[:200]!r}.")
