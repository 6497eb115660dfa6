"""Tokens per second through our client and sidecar, against llama-cpp-python called directly in one process.

    python -m benchmarks.generation [--json] [--tokens N] [--rounds N]

Both sides run the same GGUF file on the same prompts with the same sampling, for the same number of tokens, in turns
within one run. The direct side is `Llama.create_chat_completion(stream=False)` in a child process of its own; ours
streams every token through HTTP, which is the harder way. Exit 1 if ours is slower (ratio of medians below 1.0).
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
from pathlib import Path

from engine.api_device import BackendName
from engine.config import load_config
from engine.inference.model_files import embedded_model
from engine.inference.provider import Message, Provider, Request, Sampling
from engine.inference.servers.catalogue import make_servers

PROMPTS = (
    "Tell me a long story about a river and the people who live beside it.",
    "Explain in detail how a compiler turns source code into a program.",
    "Describe every room of a large old house, one after the other.",
)
CONTEXT = 1024
PARALLEL = 4
TEMPERATURE, TOP_P = 0.3, 0.9
PENALTY = 1.1
SEED = 1
DIRECT = """
import json, sys, time
from llama_cpp import Llama
settings = json.loads(sys.argv[1])
llama = Llama(sys.argv[2], n_ctx=settings["context"], verbose=False)
print("ready", flush=True)
for line in sys.stdin:
    job = json.loads(line)
    begin = time.perf_counter()
    answer = llama.create_chat_completion(
        [{"role": "user", "content": job["prompt"]}], max_tokens=job["tokens"], seed=settings["seed"],
        temperature=settings["temperature"], top_p=settings["top_p"], repeat_penalty=settings["penalty"],
        top_k=0, min_p=0.0,
    )
    seconds = time.perf_counter() - begin
    print(json.dumps({"tokens": answer["usage"]["completion_tokens"], "seconds": seconds}), flush=True)
"""


class Direct:
    """llama-cpp-python's high-level API in a process of its own."""

    def __init__(self, penalty: float = PENALTY) -> None:
        settings = {"temperature": TEMPERATURE, "top_p": TOP_P, "context": CONTEXT, "penalty": penalty, "seed": SEED}
        command = [sys.executable, "-c", DIRECT, json.dumps(settings), str(embedded_model())]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._line()

    @property
    def pid(self) -> int:
        return self._process.pid

    def run(self, prompt: str, tokens: int) -> tuple[int, float]:
        """Tokens generated and seconds taken."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"prompt": prompt, "tokens": tokens}) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._line())
        return int(answer["tokens"]), float(answer["seconds"])

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
            raise RuntimeError("the direct process ended")
        return line


async def ours(provider: Provider, prompt: str, tokens: int) -> tuple[int, float]:
    """Tokens generated and seconds taken, streamed."""
    sampling = Sampling(tokens, TEMPERATURE, TOP_P, PENALTY, SEED)
    begin, count = time.perf_counter(), 0
    async for delta in provider.stream(Request((Message("user", prompt),), sampling)):
        count = delta.completion_tokens or count
    return count, time.perf_counter() - begin


async def batch(provider: Provider, tokens: int) -> float:
    """Tokens per second of PARALLEL answers together."""
    prompts = [PROMPTS[at % len(PROMPTS)] + f" Number {at}." for at in range(PARALLEL)]
    begin = time.perf_counter()
    results = await asyncio.gather(*(ours(provider, prompt, tokens) for prompt in prompts))
    return sum(count for count, _ in results) / (time.perf_counter() - begin)


async def measure(tokens: int, rounds: int) -> dict[str, float | list[float]]:
    """Both sides in turns; the first pair warms up and does not count."""
    ours_rates: list[float] = []
    direct_rates: list[float] = []
    with tempfile.TemporaryDirectory() as home:
        overrides = ["inference.backend=llamacpp", f"inference.parallel={PARALLEL}", f"model.context_tokens={CONTEXT}"]
        config = load_config(Path(home) / "config.toml", overrides)
        server = make_servers(config, Path(home), lambda: None)[BackendName.LLAMACPP]
        direct = Direct()
        try:
            await server.start(1)
            provider = server.provider
            for turn in range(rounds * len(PROMPTS) + 1):
                prompt = PROMPTS[turn % len(PROMPTS)]
                for rates, (count, seconds) in (
                    (direct_rates, await asyncio.to_thread(direct.run, prompt, tokens)),
                    (ours_rates, await ours(provider, prompt, tokens)),
                ):
                    rates.append(count / seconds)
            together = await batch(provider, tokens)
        finally:
            await server.stop()
            direct.close()
    mine, other = statistics.median(ours_rates[1:]), statistics.median(direct_rates[1:])
    return {
        "direct": other,
        "ours": mine,
        "ratio": mine / other,
        "ours_together": together,
        "direct_runs": direct_rates[1:],
        "ours_runs": ours_rates[1:],
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; 1 if ours is slower."""
    parser = argparse.ArgumentParser(description="Tokens per second: engine + sidecar against llama-cpp-python")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args(argv)
    result = asyncio.run(measure(arguments.tokens, arguments.rounds))
    if arguments.json:
        print(json.dumps(result))
    else:
        print(f"{'SmolLM2-135M Q4_1, sampled':44} tokens/s")
        print(f"{'llama-cpp-python, create_chat_completion':44} {result['direct']:8.1f}")
        print(f"{'client + sidecar, one stream':44} {result['ours']:8.1f}")
        print(f"{f'client + sidecar, {PARALLEL} streams together':44} {result['ours_together']:8.1f}")
        print(f"{'ratio of one stream to direct':44} {result['ratio']:8.2f}")
    return 0 if float(str(result["ratio"])) >= 1.0 else 1


if __name__ == "__main__":
    raise SystemExit(main())
