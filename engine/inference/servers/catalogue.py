"""Every backend there is: its server, what it would take, and whether it can run here."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from engine.api_device import BackendInfo, BackendName
from engine.config import Config
from engine.device.contracts import Server
from engine.device.lock import DeviceLock
from engine.errors import BackendUnavailableError, EnvironmentUnfitError, ModelNotFoundError
from engine.inference.base_weights import base_weights_if_ready
from engine.inference.factory import CAPABILITIES
from engine.inference.install import find_vllm
from engine.inference.model_files import model_path
from engine.inference.provider import Provider
from engine.inference.servers.ollama_server import OllamaServer
from engine.inference.servers.process import ProcessServer
from engine.inference.servers.recipe import Recipe
from engine.inference.servers.sidecars import SidecarRecipe
from engine.inference.servers.vllm_server import VllmRecipe, cpu_computes_bf16, own_gpu, weights_mib

MIB = 1 << 20
STORED_BYTES, FLOAT_BYTES, FOUR_BIT_BYTES = 2.0, 4.0, 0.9
"""Of one weight: bf16 on the disk and on a GPU, fp32 on most CPUs, NF4 with its embeddings and norms in full."""
BITS_PER_WEIGHT = 4.5
"""Of a quantized GGUF file, the fewest in use: the estimate of its weights errs upwards."""
SCRIPTED_MIB = 150
LLAMACPP_MIB = 400
"""Interpreter, library and compute buffers."""
KV_KIB_PER_TOKEN, KV_KIB_PER_FILE_MIB = 32.0, 0.025
"""Of llama.cpp's cache: 23 KiB a token for the embedded model, 128 for one of 8 billion weights; both err upwards."""
TORCH_MIB = 900
"""Interpreter, torch, transformers."""
VLLM_CPU_MIB = 2700
"""Three processes with torch each, beside weights and cache. Measured."""
VLLM_GPU_MIB = 3000
"""CUDA context, graphs, activations and adapter slots, beside weights and cache."""


class ServingServer(Server, Protocol):
    """A `Server` that requests can be sent to."""

    @property
    def provider(self) -> Provider:
        """What requests are sent to while it serves.

        Raises:
            ProviderError: it is not running.
        """
        ...


def make_servers(
    config: Config, home: Path, lock: Callable[[], DeviceLock | None]
) -> Mapping[BackendName, ServingServer]:
    """One server per backend, none of them started. Looks at the model's size; call it in a thread.

    Args:
        lock: the device's lock, asked for at each start.
    """
    needs = estimate_needs(config, home)
    sidecars = (BackendName.SCRIPTED, BackendName.LLAMACPP, BackendName.TRANSFORMERS)
    recipes: list[Recipe] = [SidecarRecipe(name, config, home, needs[name]) for name in sidecars]
    recipes.append(VllmRecipe(config, home, needs[BackendName.VLLM]))
    servers: dict[BackendName, ServingServer] = {
        recipe.backend: ProcessServer(recipe, config, home, lock) for recipe in recipes
    }
    return servers | {BackendName.OLLAMA: OllamaServer(config)}


def estimate_needs(config: Config, home: Path) -> Mapping[BackendName, int]:
    """MiB that each backend takes when it serves. Blocks: looks at the size of the model, and for a GPU."""
    file_mib, million_weights = _model_size(config, home)
    cache = (KV_KIB_PER_TOKEN + KV_KIB_PER_FILE_MIB * file_mib) * config.model.context_tokens / 1024
    width = FOUR_BIT_BYTES if config.transformers.four_bit else FLOAT_BYTES
    return {
        BackendName.SCRIPTED: SCRIPTED_MIB,
        BackendName.LLAMACPP: round(file_mib + LLAMACPP_MIB + cache * config.inference.parallel),
        BackendName.TRANSFORMERS: round(million_weights * width + TORCH_MIB),
        BackendName.VLLM: round(_vllm_mib(config, home, million_weights)),
    }


def _model_size(config: Config, home: Path) -> tuple[float, float]:
    """The model file in MiB, and its weights in units of 2**20; 0 where there is no model yet."""
    try:
        ready = base_weights_if_ready(config, home)
        unpacked_mib = weights_mib(ready.directory) if ready is not None else 0.0
        if (
            config.model.path and Path(config.model.path).expanduser().is_dir()
        ):  # for the others: llama.cpp has no use for it
            return unpacked_mib, unpacked_mib / STORED_BYTES
        file_mib = model_path(config).stat().st_size / MIB
    except (ModelNotFoundError, EnvironmentUnfitError):
        return 0.0, 0.0
    return file_mib, unpacked_mib / STORED_BYTES if ready is not None else file_mib * 8 / BITS_PER_WEIGHT


def _vllm_mib(config: Config, home: Path, million_weights: float) -> float:
    try:
        gpu = own_gpu(config, find_vllm(config, home)) is not None
    except BackendUnavailableError:  # its start will say so
        gpu = False
    fixed = VLLM_GPU_MIB if gpu else VLLM_CPU_MIB
    width = STORED_BYTES if gpu or cpu_computes_bf16() else FLOAT_BYTES
    return million_weights * width + config.vllm.kv_cache_mib + fixed


def backend_infos(config: Config, home: Path) -> tuple[BackendInfo, ...]:
    """Which backends can run here, and how to get those that cannot. Blocks; starts nothing."""
    return tuple(_info(name, *_availability(name, config, home)) for name in BackendName)


def _info(name: BackendName, available: bool, reason: str) -> BackendInfo:
    can = CAPABILITIES[name]
    return BackendInfo(name=name, available=available, reason=reason, adapters=can.adapters, sleep=can.sleep)


def _availability(name: BackendName, config: Config, home: Path) -> tuple[bool, str]:
    match name:
        case BackendName.SCRIPTED:
            return True, "Answers from a script; for demonstrations and tests."
        case BackendName.LLAMACPP:
            return _llamacpp(config)
        case BackendName.TRANSFORMERS:
            return True, "transformers with PEFT adapters in our own server; unpacks the model at its first start."
        case BackendName.VLLM:
            return _vllm(config, home)
        case BackendName.OLLAMA:
            return _ollama(config)


def _llamacpp(config: Config) -> tuple[bool, str]:
    if importlib.util.find_spec("llama_cpp") is None:
        return False, "llama-cpp-python is not installed; reinstall rune-tui."
    try:
        model_path(config)
    except ModelNotFoundError as error:
        return False, str(error)
    return True, "llama.cpp in our own server, with adapters at run time."


def _vllm(config: Config, home: Path) -> tuple[bool, str]:
    try:
        installed = find_vllm(config, home)
    except BackendUnavailableError as error:
        return False, str(error)
    where = "on the GPU" if installed.cuda else "on the CPU"
    return True, f"{installed.package} {'.'.join(map(str, installed.version))} {where}, in its own environment."


def _ollama(config: Config) -> tuple[bool, str]:
    if not config.ollama.model:
        return False, "Set ollama.model in config.toml to a model that your Ollama server has. It cannot use adapters."
    return True, f"{config.ollama.model} of the Ollama server at {config.ollama.url}. It cannot use adapters."
