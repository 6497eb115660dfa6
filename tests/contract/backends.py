"""The backends that the contract suite runs against, and how it talks to them. A further backend is a further line."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from safetensors.numpy import save_file

from engine.inference.factory import CAPABILITIES
from engine.inference.model_files import embedded_model
from engine.inference.openai_client import Endpoint, OpenAIProvider
from engine.inference.provider import Message, Request, Sampling

MODEL = "base"
START_SECONDS = 50.0
ROOT = Path(__file__).parents[2]
SMOLLM2 = {"q_proj": (576, 576), "v_proj": (192, 576), "down_proj": (576, 1536)}
"""(out, in) of some linear modules of the embedded model."""


@dataclass(frozen=True)
class Spec:
    """One backend: its kind and its own arguments."""

    kind: str
    arguments: tuple[str, ...] = ()
    checks_shapes: bool = True
    """Whether it knows the shapes of a base model."""


BACKENDS = [
    pytest.param(Spec("scripted", checks_shapes=False), id="scripted"),
    pytest.param(Spec("llamacpp", ("--model", str(embedded_model()))), id="llamacpp", marks=pytest.mark.model),
]


@dataclass(frozen=True)
class Running:
    """A model server that answers."""

    spec: Spec
    socket: Path
    key: str
    process: asyncio.subprocess.Process
    provider: OpenAIProvider
    http: httpx2.AsyncClient
    """Sends the key; paths are relative."""

    async def ask(self, prompt: str, *, adapter: str | None = None, **sampling: Any) -> str:
        return (await self.provider.generate(request(prompt, adapter=adapter, **sampling))).text

    async def running(self) -> int:
        """Answers that are being generated, as /metrics says."""
        text = (await self.http.get("/metrics")).text
        return int(next(line.split()[1] for line in text.splitlines() if line.startswith("vllm:num_requests_running")))


def request(
    prompt: str, *, adapter: str | None = None, schema: dict[str, Any] | None = None, **sampling: Any
) -> Request:
    values: dict[str, Any] = {"max_tokens": 16, "temperature": 0.0, "top_p": 1.0, "repetition_penalty": 1.0, "seed": 1}
    return Request((Message("user", prompt),), Sampling(**(values | sampling)), adapter, schema)


@asynccontextmanager
async def sidecar(spec: Spec, folder: Path, extra: tuple[str, ...] = ()) -> AsyncIterator[Running]:
    """Start a model server in `folder`, wait until it answers, stop it."""
    socket, key = folder / "s.sock", secrets.token_hex(32)
    arguments = ["--backend", spec.kind, "--uds", str(socket), "--model-name", MODEL, "--scratch", str(folder)]
    arguments += ["--context", "512", "--parallel", "2", "--threads", "0", "--max-adapters", "8"]
    arguments += ["--max-adapter-mb", "512", "--max-rank", "256", *spec.arguments, *extra]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "RUNE_SIDECAR_KEY": key}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "engine.inference.sidecar", *arguments,
        env=environment, stdin=asyncio.subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    endpoint = Endpoint(spec.kind, f"unix://{socket}", MODEL, key, CAPABILITIES[spec.kind], 50.0, 0)
    provider = OpenAIProvider(endpoint)
    http = httpx2.AsyncClient(
        transport=httpx2.AsyncHTTPTransport(uds=str(socket)), base_url="http://sidecar",
        headers={"Authorization": f"Bearer {key}"}, timeout=50.0,
    )  # fmt: skip
    try:
        async with asyncio.timeout(START_SECONDS):
            while not (socket.exists() and (await provider.health()).ready):
                assert process.returncode is None, "the model server ended while it started"
                await asyncio.sleep(0.02)
        yield Running(spec, socket, key, process, provider, http)
    finally:
        await provider.aclose()
        await http.aclose()
        if process.returncode is None:
            process.terminate()
        await process.wait()
        assert process.stdin is not None
        process.stdin.close()


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
