"""Eight requests at once through client and sidecar, and adapters in turns: what batching and switching cost.

    python -m benchmarks.batch [--json] [--tokens N] [--rounds N]

The same work three ways, in turns within one run: our client and sidecar with EIGHT answers together, streamed;
llama-cpp-python's own `create_chat_completion`, one after another; and raw `llama_decode` in batches of eight, which
draws no token and speaks to nobody. Prompts count on all sides. Ratios are medians over the rounds, each against its
neighbours in time. On a busy machine look at the processor time of a token too: neighbours do not change it much.
Then two loaded adapters: answers in turns against answers by one of them.

Exit 1 below 2.0 of one after another, below 0.8 of raw decoding, or if a switch costs more than SWITCH_LIMIT.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil

from benchmarks.generation import PROMPTS, SEED, TEMPERATURE, TOP_P, Direct
from benchmarks.gguf import random_adapter
from engine.api_device import BackendName
from engine.config import load_config
from engine.device.contracts import LiveAdapter
from engine.inference.model_files import embedded_model
from engine.inference.provider import Message, Provider, Request, Sampling
from engine.inference.servers.catalogue import make_servers
from engine.inference.servers.process import ProcessServer

EIGHT = 8
CONTEXT = 1024
PENALTY = 1.0
"""Off, as config.toml has it."""
ONE_BY_ONE = 2
"""Prompts of a round that llama-cpp-python answers: its rate is the same for the other six."""
AGAINST_DIRECT, AGAINST_RAW, SWITCH_LIMIT = 2.0, 0.8, 1.1
SHORT = 8
"""Tokens of an answer when switching is measured: few, so that a switch would show."""
MODULES = ("q_proj", "v_proj")
SMOLLM2 = {
    "hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3,
    "num_hidden_layers": 30,
}  # fmt: skip
RAW = """
import ctypes, json, os, sys, time
import llama_cpp.llama_cpp as api
eight, context = 8, int(sys.argv[2])
@api.llama_log_callback
def quiet(level, text, data): pass
api.llama_log_set(quiet, None)
api.llama_backend_init()
model = api.llama_model_load_from_file(sys.argv[1].encode(), api.llama_model_default_params())
params = api.llama_context_default_params()
params.n_ctx, params.n_seq_max, params.n_batch, params.n_ubatch = context * eight, eight, 512, 512
params.n_threads = params.n_threads_batch = os.cpu_count()
handle = api.llama_init_from_model(model, params)
memory, batch = api.llama_get_memory(handle), api.llama_batch_init(512, 0, 1)
def decode(entries):
    batch.n_tokens = len(entries)
    for at, (token, position, sequence, wanted) in enumerate(entries):
        batch.token[at], batch.pos[at], batch.logits[at] = token, position, wanted
        batch.n_seq_id[at], batch.seq_id[at][0] = 1, sequence
    assert api.llama_decode(handle, batch) == 0
print("ready", flush=True)
for line in sys.stdin:
    job = json.loads(line)
    prompt, tokens = job["prompt"], job["tokens"]
    api.llama_memory_clear(memory, True)
    begin = time.perf_counter()
    for sequence in range(eight):
        decode([(100 + at, at, sequence, at == prompt - 1) for at in range(prompt)])
    for step in range(tokens):
        decode([(500 + 7 * step + sequence, prompt + step, sequence, True) for sequence in range(eight)])
    print(json.dumps({"tokens": eight * tokens, "seconds": time.perf_counter() - begin}), flush=True)
"""


class Raw:
    """Batches of eight by the C API, in a process of its own."""

    def __init__(self) -> None:
        command = [sys.executable, "-c", RAW, str(embedded_model()), str(CONTEXT)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._line()

    @property
    def pid(self) -> int:
        return self._process.pid

    def run(self, prompt_tokens: int, tokens: int) -> float:
        """Tokens per second."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"prompt": prompt_tokens, "tokens": tokens}) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._line())
        return answer["tokens"] / answer["seconds"]

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the raw process ended")
        return line


async def answer(provider: Provider, prompt: str, tokens: int, adapter: str | None = None) -> tuple[int, int]:
    """One streamed answer: its tokens and those of its prompt."""
    sampling = Sampling(tokens, TEMPERATURE, TOP_P, PENALTY, SEED)
    count = prompt_tokens = 0
    async for delta in provider.stream(Request((Message("user", prompt),), sampling, adapter)):
        count, prompt_tokens = delta.completion_tokens or count, delta.prompt_tokens or prompt_tokens
    return count, prompt_tokens


async def together(provider: Provider, tokens: int, turn: int) -> tuple[float, int]:
    """Tokens per second of EIGHT answers, and the tokens of one prompt; no prompt is in the cache from before."""
    prompts = [f"{turn}. {at}. {PROMPTS[at % len(PROMPTS)]}" for at in range(EIGHT)]
    begin = time.perf_counter()
    found = await asyncio.gather(*(answer(provider, prompt, tokens) for prompt in prompts))
    return sum(count for count, _ in found) / (time.perf_counter() - begin), found[0][1]


def processor_seconds(pid: int) -> float:
    """Of a process and all below it, so far."""
    leader = psutil.Process(pid)
    return sum(sum(process.cpu_times()[:2]) for process in (leader, *leader.children(recursive=True)))


async def throughput(provider: Provider, pid: int, tokens: int, rounds: int) -> dict[str, Any]:
    """All three sides in turns; the first round warms up and does not count."""
    ours: list[float] = []
    direct: list[float] = []
    raw: list[float] = []
    with ExitStack() as stack:
        one, eight = Direct(PENALTY), Raw()
        stack.callback(one.close)
        stack.callback(eight.close)
        pids = {"ours": pid, "direct": one.pid, "raw": eight.pid}
        for turn in range(rounds + 1):
            if turn == 1:
                before = {side: processor_seconds(at) for side, at in pids.items()}
            rate, prompt_tokens = await together(provider, tokens, turn)
            ours.append(rate)
            raw.append(await asyncio.to_thread(eight.run, prompt_tokens, tokens))
            pairs = [await asyncio.to_thread(one.run, PROMPTS[at], tokens) for at in range(ONE_BY_ONE)]
            direct.append(sum(count for count, _ in pairs) / sum(seconds for _, seconds in pairs))
        spent = {side: processor_seconds(at) - before[side] for side, at in pids.items()}
    made = {"ours": EIGHT * tokens * rounds, "raw": EIGHT * tokens * rounds, "direct": ONE_BY_ONE * tokens * rounds}
    return {
        "processor_ms": {side: 1000 * spent[side] / made[side] for side in made},
        "ours": statistics.median(ours[1:]),
        "direct": statistics.median(direct[1:]),
        "raw": statistics.median(raw[1:]),
        "against_direct": statistics.median(mine / other for mine, other in zip(ours[1:], direct[1:], strict=True)),
        "against_raw": statistics.median(mine / other for mine, other in zip(ours[1:], raw[1:], strict=True)),
        "runs": {"ours": ours[1:], "direct": direct[1:], "raw": raw[1:]},
    }


async def switching(provider: Provider, rounds: int) -> dict[str, float]:
    """Milliseconds of a short answer by one adapter, and by two in turns; medians, measured side by side."""
    names = ("adapter-0", "adapter-1")
    same: list[float] = []
    turns: list[float] = []
    for turn in range(4 * rounds + 2):
        # Pairs: twice the same adapter, then twice one after the other; the second of each pair counts.
        for taken, pair in ((same, (names[turn % 2],) * 2), (turns, (names[turn % 2], names[1 - turn % 2]))):
            for name in pair:
                begin = time.perf_counter()
                await answer(provider, PROMPTS[0], SHORT, name)
                last = (time.perf_counter() - begin) * 1000
            taken.append(last)
    one, other = statistics.median(same[2:]), statistics.median(turns[2:])
    return {"same_adapter_ms": one, "other_adapter_ms": other, "switch_ratio": other / one}


async def measure(tokens: int, rounds: int) -> dict[str, Any]:
    """Start the sidecar as the product starts it, measure, stop it."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        overrides = [f"inference.parallel={EIGHT}", f"model.context_tokens={CONTEXT}"]
        config = load_config(home / "none.toml", overrides, {})
        server = make_servers(config, home, lambda: None)[BackendName.LLAMACPP]
        assert isinstance(server, ProcessServer)
        await server.start(1)
        try:
            assert server.pid is not None
            result = await throughput(server.provider, server.pid, tokens, rounds)
            for at in range(2):
                path = random_adapter(home / f"adapter-{at}", SMOLLM2, MODULES, 0.02, seed=at)
                await server.load_adapter(LiveAdapter(f"adapter-{at}", str(path)))
            return result | await switching(server.provider, rounds)
        finally:
            await server.stop()


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; 1 if a limit is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args(argv)
    found = asyncio.run(measure(arguments.tokens, arguments.rounds))
    if arguments.json:
        print(json.dumps(found))
    else:
        print(f"{'SmolLM2-135M Q4_1, eight answers of ' + str(arguments.tokens):52} tokens/s")
        print(f"{'client + sidecar, together':52} {found['ours']:8.1f}")
        print(f"{'llama-cpp-python, one after another':52} {found['direct']:8.1f}")
        print(f"{'raw llama_decode, batches of eight':52} {found['raw']:8.1f}")
        for side, spent in found["processor_ms"].items():
            print(f"{f'processor ms of a token, {side}':52} {spent:8.1f}")
        print(f"{'ratio to one after another (at least 2.0)':52} {found['against_direct']:8.2f}")
        print(f"{'ratio to raw decoding (at least 0.8)':52} {found['against_raw']:8.2f}")
        print(f"{'answer by the adapter of the last one, ms':52} {found['same_adapter_ms']:8.1f}")
        print(f"{'answer by another adapter, ms':52} {found['other_adapter_ms']:8.1f}")
        print(f"{'ratio (at most 1.1)':52} {found['switch_ratio']:8.2f}")
    slow = found["against_direct"] < AGAINST_DIRECT or found["against_raw"] < AGAINST_RAW
    return int(slow or found["switch_ratio"] > SWITCH_LIMIT)


if __name__ == "__main__":
    raise SystemExit(main())
