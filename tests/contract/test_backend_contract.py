"""What every backend must do, whichever it is: the house protocol, seen through our client and through plain HTTP."""

from __future__ import annotations

import asyncio
import json
import shutil
import stat
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx2
import pytest
import pytest_asyncio
from backends import (
    BACKENDS,
    MAX_ADAPTERS,
    MODEL,
    Running,
    merged_of,
    request,
    serving,
    variation,
    with_form_of,
    write_adapter,
)
from support.shared_weights import shared_weights

from engine.api_device import BackendName
from engine.device.contracts import LiveAdapter, Oracle, OracleMismatchError
from engine.errors import AdapterRejectedError, ContextOverflowError, ProviderError
from engine.inference.servers.recipe import put_to_sleep, wake_up

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(400)]
REPORT = "Report your sampling settings, please, and then tell me a story of the sea."
COUNT = "Count to 200 slowly: 1 2 3 4 5 6"
LONG = "Write a very long story about the sea, with many chapters, and count to 200 slowly in it."
"""Each backend answers it to the token limit: what is cut short is still under way (vLLM ends `COUNT` after 12)."""
ROUTES = [
    ("GET", "/health"), ("GET", "/v1/models"), ("GET", "/metrics"), ("GET", "/is_sleeping"),
    ("POST", "/v1/chat/completions"), ("POST", "/v1/completions"), ("POST", "/v1/load_lora_adapter"),
    ("POST", "/v1/unload_lora_adapter"), ("POST", "/sleep"), ("POST", "/wake_up"), ("GET", "/no-such-route"),
]  # fmt: skip


@pytest.fixture(scope="module")
def shared_home(pytestconfig: pytest.Config) -> Iterator[Path]:
    """One for all backends, with a path that is short enough, and the base weights that all tests share."""
    folder = Path(tempfile.mkdtemp(prefix="rt-"))
    (folder / "models").symlink_to(shared_weights(pytestconfig).directory.parent)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=BACKENDS)
async def server(request: pytest.FixtureRequest, shared_home: Path) -> AsyncIterator[Running]:
    async with serving(request.param, shared_home) as running:
        yield running


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return write_adapter(folder / "one", 1), write_adapter(folder / "two", 2)


async def test_a31_a_seed_repeats_and_so_does_temperature_0(server: Running) -> None:
    warm = [await server.ask(REPORT, temperature=0.9, seed=7) for _ in range(2)]
    greedy = [await server.ask(REPORT, temperature=0.0) for _ in range(2)]
    assert warm[0] == warm[1] and greedy[0] == greedy[1]
    # The control: with another seed it is another answer, so the seed is not just ignored.
    assert await server.ask(REPORT, temperature=0.9, seed=8) != warm[0]


@pytest.mark.parametrize("change", [{"temperature": 1.5}, {"repetition_penalty": 1.9}, {"top_p": 0.05}])
async def test_a31_sampling_parameters_reach_the_model(server: Running, change: dict[str, float]) -> None:
    usual = {"temperature": 0.9, "max_tokens": 24, "seed": 5}
    assert await server.ask(REPORT, **usual) != await server.ask(REPORT, **(usual | change))


async def test_a31_a_streamed_answer_is_the_whole_answer(server: Running) -> None:
    whole = await server.provider.generate(request(REPORT))
    deltas = [delta async for delta in server.provider.stream(request(REPORT))]
    assert len(deltas) > 2, "it came in one piece: nothing was streamed"
    assert "".join(delta.text for delta in deltas) == whole.text
    last = deltas[-1]
    assert (last.finish_reason, last.prompt_tokens) == (whole.finish_reason, whole.prompt_tokens)
    assert last.completion_tokens == whole.completion_tokens > 0


async def test_a_stop_string_ends_the_answer_and_is_not_in_it(server: Running) -> None:
    free = await server.ask(REPORT)
    stop = free[3:12]
    stopped = await server.provider.generate(request(REPORT, stop=(stop,)))
    assert stopped.text == free[: free.index(stop)]
    assert stopped.finish_reason == "stop"
    streamed = [delta.text async for delta in server.provider.stream(request(REPORT, stop=(stop,)))]
    assert "".join(streamed) == stopped.text


async def test_the_token_limit_ends_with_length(server: Running) -> None:
    answer = await server.provider.generate(request(COUNT, max_tokens=5))
    assert (answer.finish_reason, answer.completion_tokens) == ("length", 5)


async def test_a31_closing_the_stream_gives_the_slot_back(server: Running) -> None:
    async with aclosing(server.provider.stream(request(LONG, max_tokens=400))) as stream:  # type: ignore[type-var] # an async generator
        await anext(stream)
        assert await server.running() == 1
    await server.idle()


async def test_a31_cancelling_a_call_gives_the_slot_back(server: Running) -> None:
    async with asyncio.TaskGroup() as tasks:
        call = tasks.create_task(server.provider.generate(request(LONG, max_tokens=400)))
        while await server.running() == 0:
            await asyncio.sleep(0)
        call.cancel()
    await server.idle()


async def test_a_prompt_beyond_the_context_is_refused_as_such(server: Running) -> None:
    with pytest.raises(ContextOverflowError, match="maximum context length is 512 tokens"):
        await server.ask("word " * 600)


async def test_a_model_that_is_not_there_is_refused(server: Running) -> None:
    with pytest.raises(ProviderError, match="does not exist"):
        await server.ask(REPORT, adapter="nobody")


async def test_an_option_that_means_nothing_is_refused(server: Running) -> None:
    if not server.spec.house:
        pytest.skip("vLLM ignores what it does not know; the probe of each start proves that schemas are followed")
    body = {"model": MODEL, "messages": [{"role": "user", "content": "x"}], "guided_json": {"type": "object"}}
    response = await server.post("/v1/chat/completions", body)
    assert response.status_code == 400
    assert "guided_json" in response.json()["error"]["message"]


async def test_text_completion_streams_too(server: Running) -> None:
    body: dict[str, Any] = {"model": MODEL, "prompt": COUNT, "max_tokens": 6, "temperature": 0, "logprobs": 2}
    whole = (await server.post("/v1/completions", body)).json()
    choice = whole["choices"][0]
    assert len(choice["logprobs"]["token_logprobs"]) == whole["usage"]["completion_tokens"] == 6
    response = await server.post("/v1/completions", body | {"stream": True})
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
    assert lines[-1] == "[DONE]"
    assert "".join(json.loads(line)["choices"][0]["text"] for line in lines[:-1]) == choice["text"]


async def test_logprobs_are_those_of_the_tokens(server: Running) -> None:
    entries = await server.logprobs(REPORT)
    assert len(entries) == 8
    for entry in entries:
        best = [item["logprob"] for item in entry["top_logprobs"]]
        assert len(best) == 3 and best == sorted(best, reverse=True)
        # Temperature 0: the chosen token is the most likely one.
        assert entry["logprob"] == best[0] <= 0


async def test_a_json_schema_constrains_the_answer(server: Running) -> None:
    schema = {
        "type": "object",
        "properties": {"color": {"enum": ["red", "green"]}, "ok": {"type": "boolean"}},
        "required": ["color", "ok"],
        "additionalProperties": False,
    }
    answer = await server.provider.generate(request(REPORT, schema=schema, max_tokens=40))
    value = json.loads(answer.text)
    assert set(value) == {"color", "ok"} and value["color"] in ("red", "green") and isinstance(value["ok"], bool)
    # The control: without the schema the same prompt is not answered in JSON.
    with pytest.raises(ValueError):
        json.loads(await server.ask(REPORT, max_tokens=40))


async def test_a32_a34_adapters_load_are_listed_are_isolated_and_unload(
    server: Running, adapters: tuple[Path, Path]
) -> None:
    base, base_logprobs = await server.ask(REPORT, max_tokens=8), await server.logprobs(REPORT)
    for name, path in zip(("one", "two"), adapters, strict=True):
        await server.load(name, path)
    assert await server.provider.list_adapters() == ("one", "two")
    health = await server.provider.health()
    assert (health.ready, health.model, health.adapters) == (True, MODEL, ("one", "two"))
    alone = {name: await server.ask(REPORT, adapter=name, max_tokens=8) for name in ("one", "two")}
    assert len({base, *alone.values()}) == 3, "the adapters change nothing: the rest would prove nothing"
    names = (None, "one", "two", "one", None, "two")
    together = await asyncio.gather(*(server.ask(REPORT, adapter=name, max_tokens=8) for name in names))
    assert together == [base if name is None else alone[name] for name in names]
    for name in ("one", "two"):
        await server.server.unload_adapter(name)
    assert await server.provider.list_adapters() == ()
    assert await server.ask(REPORT, max_tokens=8) == base
    again = await server.logprobs(REPORT)
    assert [entry["token"] for entry in again] == [entry["token"] for entry in base_logprobs]
    assert [entry["logprob"] for entry in again] == pytest.approx([e["logprob"] for e in base_logprobs], abs=1e-3)


async def test_adapters_that_come_change_nothing_of_what_is_there(server: Running, tmp_path: Path) -> None:
    """Nor does one go by itself with one more than the limit loaded: which of them are live is the engine's to say."""
    names = [f"n{seed}" for seed in range(MAX_ADAPTERS + 1)]
    paths = [write_adapter(tmp_path / name, seed, layers=1, scale=0.8) for seed, name in enumerate(names)]
    await server.load(names[0], paths[0])
    long = {"adapter": names[0], "max_tokens": 100}
    alone, before = await server.ask(REPORT, **long), [await server.first_token(name) for name in (MODEL, names[0])]
    async with asyncio.TaskGroup() as tasks:
        under_way = tasks.create_task(server.ask(REPORT, **long))
        for name, path in zip(names[1:], paths[1:], strict=True):
            await server.load(name, path)
            await server.first_token(name)  # now it is in its place, too
    if server.spec.house:  # vLLM computes in bfloat16, where an answer depends on who is served beside it
        assert under_way.result() == alone
    assert set(await server.provider.list_adapters()) == set(names)
    after = [await server.first_token(name) for name in (MODEL, *names)]
    assert [variation(old, new) for old, new in zip(before, after, strict=False)] == pytest.approx([0, 0], abs=0.01)
    if server.spec.checks_shapes:  # the control: another's answer is not it
        assert min(variation(after[0], other) for other in after[1:]) > 0.1
    for name in names:
        await server.server.unload_adapter(name)


async def test_a61_a_merged_adapter_is_loaded_and_does_what_its_parents_add_up_to(
    server: Running, adapters: tuple[Path, Path], tmp_path: Path
) -> None:
    """An adapter that was cut in two and put together by `cat` answers as the whole one; one by TIES is served too."""
    paths = await asyncio.to_thread(merged_of, *adapters, tmp_path)
    said = {MODEL: await server.first_token(MODEL)}
    for name, path in paths.items():
        await server.load(name, path)
        said[name] = await server.first_token(name)
        await server.server.unload_adapter(name)
    if not server.spec.checks_shapes:
        return  # the scripted one does not compute: that it takes them is all
    # Other factors with the same product: quantized activations and bfloat16 round them otherwise.
    apart = {name: variation(said["whole"], found) for name, found in said.items()}
    assert apart["again"] < 0.1, apart
    assert min(apart[name] for name in (MODEL, "half", "ties")) > 0.3, f"what is not the whole is seen: {apart}"


async def test_an_adapter_name_stands_for_one_set_of_bytes(server: Running, adapters: tuple[Path, Path]) -> None:
    await server.load("fixed", adapters[0])
    await server.load("fixed", adapters[0])
    with pytest.raises(AdapterRejectedError, match="other weights"):
        await server.load("fixed", adapters[1])
    with pytest.raises(AdapterRejectedError):
        await server.load(MODEL, adapters[0])
    await server.server.unload_adapter("fixed")
    await server.server.unload_adapter("fixed")
    # Nor once it is unloaded: caches are keyed by the name. The control: with its own bytes it is taken again.
    with pytest.raises(AdapterRejectedError, match="other weights"):
        await server.load("fixed", adapters[1])
    await server.load("fixed", adapters[0])
    await server.server.unload_adapter("fixed")


async def test_a_bad_adapter_is_refused_while_traffic_goes_on(server: Running, tmp_path: Path) -> None:
    lying = write_adapter(tmp_path / "rank", 1, layers=1, config={"r": 8})
    shapes = write_adapter(tmp_path / "shape", 1, layers=1, modules={"q_proj": (576, 500)})
    deep = write_adapter(tmp_path / "deep", 1, layers=31, modules={"q_proj": (576, 576)})
    dora = write_adapter(tmp_path / "dora", 1, layers=1, config={"use_dora": True})
    cut = write_adapter(tmp_path / "cut", 1, layers=1)
    weights = cut / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    huge = write_adapter(tmp_path / "huge", 1, layers=1, rank=300, modules={"v_proj": (192, 576)})
    bad = [lying, dora, cut, huge, tmp_path / "missing"] + ([shapes, deep] if server.spec.checks_shapes else [])
    expected = await server.ask(REPORT, max_tokens=12)
    async with asyncio.TaskGroup() as tasks:
        traffic = [tasks.create_task(server.ask(REPORT, max_tokens=12)) for _ in range(3)]
        for path in bad:
            with pytest.raises(AdapterRejectedError):
                await server.load("bad", path)
    assert [call.result() for call in traffic] == [expected] * 3
    assert await server.provider.list_adapters() == ()


async def test_sleep_refuses_and_wake_serves_the_same_answer(server: Running, adapters: tuple[Path, Path]) -> None:
    await server.load("kept", adapters[0])
    before = [await server.ask(REPORT), await server.ask(REPORT, adapter="kept", max_tokens=8)]
    await server.server.sleep()
    assert await server.provider.is_sleeping() and not (await server.provider.health()).ready
    async with asyncio.TaskGroup() as tasks:
        if server.spec.house:
            with pytest.raises(ProviderError, match="asleep"):
                await server.ask(REPORT)
            parked = None
        else:  # vLLM keeps it without a word until it wakes: why no request of ours is sent to a sleeping server
            parked = tasks.create_task(server.ask(REPORT))
            assert await server.provider.is_sleeping() and not parked.done()
        await server.server.wake()
    assert not await server.provider.is_sleeping()
    assert [await server.ask(REPORT), await server.ask(REPORT, adapter="kept", max_tokens=8)] == before
    assert parked is None or parked.result() == before[0]
    await server.server.unload_adapter("kept")


async def test_a_wake_is_verified_by_what_was_recorded_before(server: Running, adapters: tuple[Path, Path]) -> None:
    one, two = (LiveAdapter(name, str(path)) for name, path in zip(("v1", "v2"), adapters, strict=True))
    for adapter in (one, two):
        await server.server.load_adapter(adapter)
    recorded = await server.server.record((one, two))
    assert [name for name, _ in recorded.by_model] == [MODEL, "v1", "v2"]
    await server.server.sleep()
    await server.server.wake()
    await server.server.verify(recorded)
    # The control: answers under another's name are seen. (The scripted one says the same, with other probabilities.)
    (base, said), (first, at_first), (second, at_second) = recorded.by_model
    with pytest.raises(OracleMismatchError, match="v1 "):
        await server.server.verify(Oracle(((base, said), (first, at_second), (second, at_first))))
    for adapter in (one, two):
        await server.server.unload_adapter(adapter.name)


async def test_the_published_gguf_form_is_loaded_where_it_is_whole_and_by_llamacpp_only(
    server: Running, adapters: tuple[Path, Path], tmp_path: Path
) -> None:
    """Directory of one adapter, form of another one: whose answers come says which of them was loaded."""
    one, two = (LiveAdapter(name, str(path)) for name, path in zip(("f1", "f2"), adapters, strict=True))
    digest = await asyncio.to_thread(with_form_of, *adapters, tmp_path / "copy")
    published = LiveAdapter("f3", str(tmp_path / "copy"), digest)
    # The sidecar knows adapters by the bytes of their directories: what shares them would be the same to it.
    await server.server.load_adapter(published)
    ((_, with_form),) = (await server.server.record((published,), base=False)).by_model
    await server.server.unload_adapter(published.name)
    damaged = LiveAdapter("f4", str(tmp_path / "copy"), "0" * 64)
    await server.server.load_adapter(damaged)
    ((_, without),) = (await server.server.record((damaged,), base=False)).by_model
    await server.server.unload_adapter(damaged.name)
    for adapter in (one, two):
        await server.server.load_adapter(adapter)
    (_, of_one), (_, of_two) = (await server.server.record((one, two), base=False)).by_model
    for adapter in (one, two):
        await server.server.unload_adapter(adapter.name)
    if server.spec.checks_shapes:  # the scripted one says the same with each
        assert of_one != of_two
        llama = server.server.backend is BackendName.LLAMACPP
        assert with_form == (of_two if llama else of_one)
        assert without == of_one, "a form that is not the published one is never loaded"


async def test_a_wake_from_level_2_reads_the_weights_again(server: Running) -> None:
    if server.spec.house:
        pytest.skip("a sidecar has one kind of sleep")
    recorded = await server.server.record(())
    await put_to_sleep(server.provider, 2)
    await wake_up(server.provider, reload_weights=True)
    assert (await server.provider.health()).ready
    await server.server.verify(recorded)


async def test_sleep_ends_answers_in_flight(server: Running) -> None:
    finish = None
    async with aclosing(server.provider.stream(request(LONG, max_tokens=400))) as stream:  # type: ignore[type-var] # an async generator
        await anext(stream)
        await server.server.sleep()
        async for delta in stream:
            finish = delta.finish_reason
    await server.server.wake()
    assert finish == "cancelled"


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_h2_every_route_needs_the_whole_key_in_its_header(server: Running, method: str, path: str) -> None:
    wrong = {
        "none": ({}, ""),
        "wrong": ({"Authorization": "Bearer " + "0" * 64}, ""),
        "truncated": ({"Authorization": f"Bearer {server.key[:-1]}"}, ""),
        "longer": ({"Authorization": f"Bearer {server.key}0"}, ""),
        "other scheme": ({"Authorization": f"Basic {server.key}"}, ""),
        "in the query": ({}, f"?key={server.key}&api_key={server.key}&access_token={server.key}"),
    }
    transport = httpx2.AsyncHTTPTransport(uds=str(server.socket))
    async with httpx2.AsyncClient(transport=transport, base_url="http://sidecar") as stranger:
        for name, (headers, query) in wrong.items():
            response = await stranger.request(method, path + query, headers=headers)
            assert response.status_code == 401, name
        # The control: with the key the same route answers something else.
        header = {"Authorization": f"Bearer {server.key}"}
        if path not in ("/sleep", "/wake_up"):
            assert (await stranger.request(method, path, headers=header)).status_code != 401


async def test_h1_it_listens_on_a_private_unix_socket_and_nowhere_else(server: Running) -> None:
    assert stat.S_IMODE(server.socket.stat().st_mode) & 0o077 == 0
    assert stat.S_IMODE(server.socket.parent.stat().st_mode) == 0o700
    listening = [connection for process in server.family for connection in process.net_connections("inet")]
    if server.spec.house:
        assert listening == []
    else:  # its processes find each other by gloo, over loopback; requests are not taken there
        assert {connection.laddr.ip for connection in listening} <= {"127.0.0.1"}
    arguments = " ".join(argument for process in server.family for argument in process.cmdline())
    assert server.key not in arguments
    assert server.key not in (server.home / "logs" / "model-server.log").read_text()
