"""What the transformers backend does, as JSON on standard output: run in a child, because tests do not import torch.

python -m support.transformers_facts BASE ADAPTERS
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from safetensors.numpy import save_file
from transformers import AutoModelForCausalLM

from engine.inference.sidecar.backend import BadRequestError, Job, Turn
from engine.inference.sidecar.runtime import Entry
from engine.inference.sidecar.transformers_backend import TransformersBackend, TransformersSettings
from engine.inference.sidecar.transformers_native import TorchContext, TorchModel
from registry.safeload import AdapterLimits

Logits = np.ndarray[Any, Any]
CHUNK = 8


def rows(model: TorchModel, sequences: list[list[int]], order: list[int]) -> list[Logits]:
    """The last logits of sequences that were begun one by one, in chunks, and then go on together, in this order."""
    context = TorchContext(model, 64, 4)
    for at, tokens in enumerate(sequences):
        for start in range(0, len(tokens) - 1, CHUNK):
            part = tokens[: len(tokens) - 1][start : start + CHUNK]
            context.decode([Entry(token, start + place, at, False) for place, token in enumerate(part)])
    context.decode([Entry(sequences[at][-1], len(sequences[at]) - 1, at, True) for at in order])
    found = [context.logits(order.index(at)).copy() for at in range(len(sequences))]
    context.close()
    return found


def batching(base: Path) -> dict[str, Any]:
    """Sequences of different length, computed together out of order, against transformers itself, one by one."""
    model = TorchModel(base, four_bit=False)
    random = np.random.default_rng(1)
    sequences = [[int(token) for token in random.integers(3, 200, size)] for size in (3, 21, 9, 30)]
    plain: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, local_files_only=True)
    with torch.inference_mode():
        alone = [plain(torch.tensor([tokens])).logits[0, -1].numpy() for tokens in sequences]
    together = rows(model, sequences, [2, 0, 3, 1])
    some = rows(model, sequences, [3, 0, 1, 2])
    model.close()
    return {
        "difference": max(float(np.abs(one - other).max()) for one, other in zip(alone, together, strict=True)),
        "order": max(float(np.abs(one - other).max()) for one, other in zip(some, together, strict=True)),
        "spread": float(np.abs(alone[0] - alone[1]).max()),
    }


async def say(backend: TransformersBackend, text: str = "Say something, please.", **fields: Any) -> dict[str, Any]:
    job = Job((Turn("user", text),), **{"max_tokens": 12, "temperature": 0.0, "top_logprobs": 2, **fields})
    generation = await backend.submit(job)
    pieces = [piece async for piece in generation.pieces]
    return {
        "text": "".join(piece.text for piece in pieces),
        "finish": pieces[-1].finish,
        "logprobs": [item.logprob for piece in pieces for item in piece.logprobs],
    }


async def refusal(backend: TransformersBackend, schema: dict[str, Any]) -> str:
    try:
        await say(backend, json_schema=schema)
    except BadRequestError as error:
        return str(error)
    return ""


async def life(base: Path, adapters: Path, four_bit: bool) -> dict[str, Any]:
    """Adapters, a schema, cancel, sleep and wake."""
    limits = AdapterLimits(64 << 20, 16)
    settings = TransformersSettings(base, four_bit, 512, 2, 1, limits, adapters)
    backend = TransformersBackend(settings)
    await backend.start()
    facts: dict[str, Any] = {"base": await say(backend)}
    for name in ("one", "two"):
        await backend.load_adapter(name, str(adapters / name))
        facts[name] = await say(backend, adapter=name)
    names = (None, "one", "two", "one", None)
    facts["mixed"] = [
        answer["text"] for answer in await asyncio.gather(*(say(backend, adapter=name) for name in names))
    ]
    facts["spoken"] = [facts[name or "base"]["text"] for name in names]
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}},
        "required": ["n"],
        "additionalProperties": False,
    }
    facts["json"] = await say(backend, json_schema=schema, max_tokens=64)
    facts["refused"] = await refusal(backend, {"type": "no such type"})
    generation = await backend.submit(Job("endless", 400, temperature=1.0, seed=1))
    await anext(generation.pieces)
    generation.cancel()
    facts["cancelled"] = [piece.finish async for piece in generation.pieces][-1]
    await backend.sleep(1)
    await backend.wake()
    facts["woken"] = {"base": await say(backend), "one": await say(backend, adapter="one")}
    for name in ("one", "two"):
        await backend.unload_adapter(name)
    facts["unloaded"] = await say(backend)
    await backend.aclose()
    return facts


def memory(folder: Path, base: Path) -> dict[str, int]:
    """Resident MiB of this process, with a model of 256 MiB and after each of three sleeps."""
    config = json.loads((base / "config.json").read_text())
    large = folder / "large"
    large.mkdir()
    for file in base.iterdir():
        if file.name != "model.safetensors":
            (large / file.name).write_bytes(file.read_bytes())
    config |= {"intermediate_size": 1 << 18}
    (large / "config.json").write_text(json.dumps(config))
    _write_large(base, large, config)
    backend = TransformersBackend(TransformersSettings(large, False, 128, 1, 1, AdapterLimits(1, 1), folder))

    async def cycle() -> dict[str, int]:
        before = _resident()
        await backend.start()
        await say(backend)
        awake, asleep = _resident(), []
        for _ in range(3):
            await backend.sleep(1)
            asleep.append(_resident())
            await backend.wake()
        await backend.aclose()
        return {"before": before, "awake": awake, "asleep": max(asleep)}

    return asyncio.run(cycle())


def _write_large(base: Path, large: Path, config: dict[str, Any]) -> None:
    from safetensors.numpy import load_file

    tensors = load_file(base / "model.safetensors")
    hidden, wide = config["hidden_size"], config["intermediate_size"]
    for name in list(tensors):
        if ".mlp." in name:
            tensors[name] = np.full((hidden, wide) if "down" in name else (wide, hidden), 1e-4, dtype=np.float32)
    save_file(tensors, large / "model.safetensors", {"format": "pt"})


def _resident() -> int:
    gc.collect()
    return psutil.Process().memory_info().rss >> 20


def main() -> None:
    base, adapters = Path(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    facts = {
        "batching": batching(base),
        "life": asyncio.run(life(base, adapters, False)),
        "four_bit": asyncio.run(life(base, adapters, True)),
        "memory": memory(adapters, base),
    }
    json.dump(facts, sys.stdout)


if __name__ == "__main__":
    main()
