"""The transformers backend: a Hugging Face model with PEFT adapters behind the decode thread, on CUDA or the CPU."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file

from engine.inference.sidecar.adapter_files import WEIGHTS, read_config
from engine.inference.sidecar.backend import BackendError, Job
from engine.inference.sidecar.decode_backend import BackendSettings, DecodeBackend
from engine.inference.sidecar.runtime import Entry
from engine.inference.sidecar.transformers_native import TorchAdapter, TorchContext, TorchModel
from engine.inference.sidecar.transformers_sampling import Sampler
from registry.errors import AdapterRejected
from registry.safeload import AdapterLimits, TensorInfo, check_pairs, load_tensors


@dataclass(frozen=True)
class TransformersSettings:
    """What the command line says."""

    model: Path
    """A Hugging Face directory."""
    four_bit: bool
    """Hold the linear layers in NF4 with double quantization."""
    context_tokens: int
    parallel: int
    threads: int
    limits: AdapterLimits
    scratch: Path | None
    """Folder for checked adapters; None means a temporary one."""


class TransformersRuntime:
    """A `Runtime` over transformers and PEFT."""

    adapter_suffix = ".safetensors"

    def __init__(self, settings: TransformersSettings) -> None:
        self._settings = settings
        self._shapes: dict[str, tuple[int, int]] = {}

    def load(self) -> tuple[TorchModel, TorchContext]:
        settings = self._settings
        torch.set_num_threads(settings.threads)
        model = TorchModel(settings.model, settings.four_bit)
        self._shapes = model.shapes()
        context = TorchContext(model, settings.context_tokens, settings.parallel)
        try:
            context.decode([Entry(max(model.bos(), 0), 0, 0, True)])
        except BackendError:
            context.close()
            model.close()
            raise
        return model, context

    def prepare(self, directory: Path, file: Path, gguf_sha256: str | None) -> None:
        """Write the checked tensors anew: PEFT's own reader is never given a stranger's file."""
        limits = self._settings.limits
        config = read_config(directory, limits)
        tensors = load_tensors(directory / WEIGHTS, limits)
        infos = [TensorInfo(name, "F32", (array.shape[0], array.shape[1]), 0, 0) for name, array in tensors.items()]
        pairs = check_pairs(infos, config, self._shapes)
        if not pairs:
            raise AdapterRejected("it has no tensors")
        facts = {"rank": config.rank, "alpha": config.alpha, "rslora": config.use_rslora, "modules": list(pairs)}
        arrays = {
            f"{module}.lora_{side}.weight": np.ascontiguousarray(tensors[info.name], dtype=np.float32)
            for module, pair in pairs.items()
            for side, info in zip("AB", pair, strict=True)
        }
        save_file(arrays, file, {"facts": json.dumps(facts)})

    def attach(self, model: TorchModel, file: Path) -> TorchAdapter:
        return TorchAdapter(model, file)

    def sampler(self, model: TorchModel, job: Job) -> Sampler:
        return Sampler(model, job)


class TransformersBackend(DecodeBackend):
    """A `Backend` over transformers and PEFT."""

    def __init__(self, settings: TransformersSettings) -> None:
        sizes = BackendSettings(settings.context_tokens, settings.parallel, settings.scratch)
        super().__init__("transformers", TransformersRuntime(settings), sizes)
