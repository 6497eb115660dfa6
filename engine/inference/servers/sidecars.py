"""The backends that run in our own sidecar: scripted, llama.cpp, transformers."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from engine.api_device import BackendName
from engine.config import Config
from engine.inference.adapter_check import digest_of
from engine.inference.base_weights import ensure_base_weights
from engine.inference.model_files import model_path
from engine.inference.openai_client import UNIX_SCHEME, OpenAIProvider
from engine.inference.servers.recipe import SIDECAR_GRACE_S, Place, Start, inherited, put_to_sleep, wake_up
from registry.files import run_to_end

KEY_VARIABLE = "RUNE_SIDECAR_KEY"
DEVICE_VARIABLES = ("CUDA_VISIBLE_DEVICES", "LLAMA_CPP_LIB_PATH")
SLEEP_LEVEL = 1
"""A sidecar has one kind of sleep: everything goes, and comes back from the disk."""
ROOT = Path(__file__).parents[3]
"""From a checkout the packages are on our path and nowhere else."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SidecarRecipe:
    """How a sidecar is started; it sleeps and wakes over the same routes as vLLM."""

    backend: BackendName
    config: Config
    home: Path
    need_mib: int

    @property
    def start_timeout_s(self) -> float:
        return self.config.inference.start_timeout_s

    @property
    def timeout_key(self) -> str:
        return "inference.start_timeout_s"

    @property
    def probes_grammar(self) -> bool:
        """A script has no grammar, and rules that count how often they were asked."""
        return self.backend is not BackendName.SCRIPTED

    @property
    def loads_gguf(self) -> bool:
        """The form that is published is llama.cpp's."""
        return self.backend is BackendName.LLAMACPP

    async def start(self, place: Place) -> Start:
        """The command line is the configuration's; the key comes by the environment, which only its user can read."""
        arguments = [sys.executable, "-P", "-m", "engine.inference.sidecar", "--backend", self.backend]
        arguments += ["--uds", str(place.socket), "--scratch", str(place.folder)]
        arguments += [*self._sizes(), *await self._model()]
        env = inherited(*DEVICE_VARIABLES) | {KEY_VARIABLE: place.key}
        env |= {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"}
        return Start(tuple(arguments), env, f"{UNIX_SCHEME}{place.socket}", SIDECAR_GRACE_S)

    def _sizes(self) -> list[str]:
        model, inference, registry = self.config.model, self.config.inference, self.config.registry
        arguments = ["--model-name", model.base_id, "--context", str(model.context_tokens)]
        arguments += ["--parallel", str(inference.parallel), "--threads", str(inference.threads)]
        return [*arguments, "--max-adapter-mb", str(registry.max_adapter_mb), "--max-rank", str(registry.max_rank)]

    async def _model(self) -> list[str]:
        match self.backend:
            case BackendName.SCRIPTED:
                script = self.config.inference.script
                return ["--script", str(await run_to_end(Path(script).expanduser))] if script else []
            case BackendName.LLAMACPP:
                return ["--model", str(await run_to_end(partial(model_path, self.config)))]
            case _:
                weights = await ensure_base_weights(self.config, self.home, log.info)
                four_bit = ["--four-bit"] if self.config.transformers.four_bit else []
                return ["--model", str(weights.directory), *four_bit]

    def check_adapter(self, directory: str) -> str:
        """The sidecar checks all of it by itself."""
        return digest_of(directory)

    async def sleep(self, provider: OpenAIProvider) -> int:
        await put_to_sleep(provider, SLEEP_LEVEL)
        return SLEEP_LEVEL

    async def wake(self, provider: OpenAIProvider, level: int) -> None:
        await wake_up(provider)
