"""The backends that the contract suite runs against, and how it talks to them. A further backend is a further line.

Each is started as the product starts it: by its server, under a guardian, from a configuration. vLLM is the real one,
in an environment of its own that RUNE_VLLM_PYTHON names; without it its tests are skipped, and say so.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import shutil
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import psutil
import pytest
from safetensors.numpy import save_file
from support.merging_house import ignore, never, spec_of

from engine.api_device import BackendName
from engine.api_evolution import MergeMethod
from engine.config import load_config
from engine.device.contracts import LiveAdapter
from engine.evolution.merging.job import merge
from engine.evolution.merging.spec import Limits, ParentFiles
from engine.inference.model_files import model_path
from engine.inference.openai_client import OpenAIProvider
from engine.inference.provider import Message, Request, Sampling
from engine.inference.servers.catalogue import make_servers
from engine.inference.servers.process import ProcessServer
from engine.inference.sidecar.lora_gguf import convert, read_base
from registry.blobs import GGUF, file_digest
from registry.safeload import AdapterLimits, load_tensors

MODEL = "base"
MAX_ADAPTERS = 3
VLLM_VARIABLE = "RUNE_VLLM_PYTHON"
SMOLLM2 = {"q_proj": (576, 576), "v_proj": (192, 576), "down_proj": (576, 1536)}
"""(out, in) of some linear modules of the embedded model."""
IDLE_SECONDS = 5.0
"""Far less than the answers that are given up would have taken."""
KEY_VARIABLES = ("RUNE_SIDECAR_KEY", "VLLM_API_KEY")


@dataclass(frozen=True)
class Spec:
    """One backend and where it may differ."""

    kind: BackendName
    checks_shapes: bool = True
    """Whether a base model with shapes is behind it."""
    house: bool = True
    """Whether it is our sidecar, whose answers are stricter than vLLM's; see `sidecar/app.py`."""


VLLM_MARKS = (
    pytest.mark.slow,
    pytest.mark.timeout(600),  # it imports for two minutes
    pytest.mark.skipif(VLLM_VARIABLE not in os.environ, reason=f"{VLLM_VARIABLE} names no interpreter that has vllm"),
)
BACKENDS = [
    pytest.param(Spec(BackendName.SCRIPTED, checks_shapes=False), id="scripted"),
    pytest.param(Spec(BackendName.LLAMACPP), id="llamacpp", marks=pytest.mark.model),
    pytest.param(Spec(BackendName.TRANSFORMERS), id="transformers", marks=(pytest.mark.model, pytest.mark.slow)),
    pytest.param(Spec(BackendName.VLLM, house=False), id="vllm", marks=VLLM_MARKS),
]


@dataclass(frozen=True)
class Running:
    """A model server that answers."""

    spec: Spec
    server: ProcessServer
    home: Path

    @property
    def provider(self) -> OpenAIProvider:
        return self.server.provider

    @property
    def socket(self) -> Path:
        (socket,) = self.home.glob("run/server-*/model.sock")
        return socket

    @property
    def family(self) -> list[psutil.Process]:
        assert self.server.pid is not None
        leader = psutil.Process(self.server.pid)
        return [leader, *leader.children(recursive=True)]

    @property
    def key(self) -> str:
        """As its environment has it: what another process of the same user could read too."""
        environment = self.family[0].environ()
        return next(environment[name] for name in KEY_VARIABLES if name in environment)

    async def load(self, name: str, path: Path) -> None:
        await self.server.load_adapter(LiveAdapter(name, str(path)))

    async def post(self, path: str, body: Mapping[str, Any]) -> httpx2.Response:
        return await self.provider.call("POST", path, dict(body))

    async def ask(self, prompt: str, *, adapter: str | None = None, **sampling: Any) -> str:
        return (await self.provider.generate(request(prompt, adapter=adapter, **sampling))).text

    async def logprobs(self, prompt: str) -> list[Any]:
        """The entries of eight greedy tokens of the base model, each with its three likeliest."""
        body = {"model": MODEL, "messages": [{"role": "user", "content": prompt}], "max_tokens": 8, "temperature": 0}
        response = await self.post("/v1/chat/completions", body | {"logprobs": True, "top_logprobs": 3})
        assert response.status_code == 200, response.text
        return response.json()["choices"][0]["logprobs"]["content"]

    async def first_token(self, model: str) -> dict[str, float]:
        """Probability of each token that could begin an answer, of the likeliest twenty."""
        asked = {"role": "user", "content": "Tell me a story of the sea."}
        body = {"model": model, "messages": [asked], "max_tokens": 1, "temperature": 0}
        answer = await self.post("/v1/chat/completions", body | {"logprobs": True, "top_logprobs": 20})
        (entry,) = answer.json()["choices"][0]["logprobs"]["content"]
        return {str(item["bytes"]): math.exp(item["logprob"]) for item in entry["top_logprobs"]}

    async def running(self) -> float:
        """Answers that are being generated, as /metrics says."""
        lines = (await self.provider.call("GET", "/metrics")).text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("vllm:num_requests_running"))

    async def idle(self) -> None:
        """Returns once nothing is generated. Its other slot answers meanwhile: vLLM counts only as it decodes."""
        async with asyncio.timeout(IDLE_SECONDS):
            while await self.running():
                await self.ask("x", max_tokens=1)


def request(
    prompt: str, *, adapter: str | None = None, schema: dict[str, Any] | None = None, **sampling: Any
) -> Request:
    values: dict[str, Any] = {"max_tokens": 16, "temperature": 0.0, "top_p": 1.0, "repetition_penalty": 1.0, "seed": 1}
    return Request((Message("user", prompt),), Sampling(**(values | sampling)), adapter, schema)


def with_form_of(directory: Path, other: Path, target: Path) -> str:
    """A copy of one adapter that has the GGUF form of another one in it; gives the form's digest."""
    shutil.copytree(directory, target)
    base = read_base(model_path(load_config(target / "none.toml", [])))
    convert(other, base, AdapterLimits(1 << 26, 64), target / GGUF)
    return file_digest(target / GGUF)


@asynccontextmanager
async def serving(spec: Spec, home: Path) -> AsyncGenerator[Running]:
    """Start a model server in `home`, wait until it answers, stop it."""
    overrides = [f"model.base_id={MODEL}", "model.context_tokens=512", "inference.parallel=2"]
    overrides += [f"inference.max_adapters={MAX_ADAPTERS}", "vllm.max_loras=2"]
    overrides += ["vllm.kv_cache_mib=256", f"vllm.python={os.environ.get(VLLM_VARIABLE, '')}"]
    config = await asyncio.to_thread(load_config, home / "none.toml", overrides)
    servers = await asyncio.to_thread(make_servers, config, home, lambda: None)
    server = servers[spec.kind]
    assert isinstance(server, ProcessServer)
    await server.start(1)
    try:
        yield Running(spec, server, home)
    finally:
        await server.stop()


def variation(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    """Half the sum of differences of two distributions of a token, as far as they are known: 0 to 1."""
    return sum(abs(one.get(token, 0) - other.get(token, 0)) for token in one.keys() | other.keys()) / 2


def cut_in_two(adapter: Path, folder: Path) -> list[ParentFiles]:
    """Two adapters of other ranks and scales, one of them rsLoRA, whose deltas add up to the one of `adapter`."""
    tensors = load_tensors(adapter / "adapter_model.safetensors", AdapterLimits(1 << 26, 64))
    config = json.loads((adapter / "adapter_config.json").read_text())
    ranks = {"first": slice(0, 1), "rest": slice(1, config["r"])}
    parts: list[ParentFiles] = []
    for name, kept in ranks.items():
        rank = kept.stop - kept.start
        told = {"r": rank, "lora_alpha": 6, "use_rslora": name == "rest"}
        scale = 6 / rank**0.5 if told["use_rslora"] else 6 / rank
        cut = {
            key: np.ascontiguousarray(array[kept] if ".lora_A." in key else array[:, kept] / np.float32(scale))
            for key, array in tensors.items()
        }
        (folder / name).mkdir(parents=True)
        save_file(cut, folder / name / "adapter_model.safetensors")
        (folder / name / "adapter_config.json").write_text(json.dumps(config | told))
        parts.append(ParentFiles(id=name, directory=folder / name))
    return parts


def merged_of(one: Path, two: Path, folder: Path) -> dict[str, Path]:
    """`one` whole; cut in two and put together again; with one of the two halves alone; and with `two` by TIES."""
    halves = cut_in_two(one, folder / "halves")
    both = [ParentFiles(id=path.name, directory=path) for path in (one, two)]
    wanted = {
        "again": (MergeMethod.CAT, halves, (1.0, 1.0)),
        "half": (MergeMethod.CAT, halves, (1.0, 0.0)),
        "ties": (MergeMethod.TIES, both, (0.5, 0.5)),
    }
    limits = Limits(max_bytes=1 << 26, max_rank=64)
    for name, (method, parents, weights) in wanted.items():
        spec = spec_of(folder / name, *parents, method=method, weights=weights, rank=4, limits=limits)
        merge(spec, ignore, never)
    return {"whole": one} | {name: folder / name for name in wanted}


def write_adapter(
    folder: Path,
    seed: int,
    *,
    rank: int = 4,
    modules: Mapping[str, tuple[int, int]] = SMOLLM2,
    layers: int = 4,
    scale: float = 0.4,
    config: Mapping[str, Any] = {},
) -> Path:
    """A PEFT directory with random weights, strong enough to change what the model says."""
    random = np.random.default_rng(seed)
    tensors: dict[str, np.ndarray[Any, Any]] = {}
    for layer in range(layers):
        for module, (rows, columns) in modules.items():
            block = "mlp" if module in ("down_proj", "up_proj", "gate_proj") else "self_attn"
            name = f"base_model.model.model.layers.{layer}.{block}.{module}"
            tensors[f"{name}.lora_A.weight"] = random.normal(0, scale, (rank, columns)).astype(np.float32)
            tensors[f"{name}.lora_B.weight"] = random.normal(0, scale, (rows, rank)).astype(np.float32)
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    values = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": sorted(modules), "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(values | dict(config)))
    return folder
