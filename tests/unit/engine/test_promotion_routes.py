"""engine/routes/promotion.py over the real socket: promotion, rollback, prune, aliases, history (A63, A90)."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest
from support.engine_process import api
from support.evidence_house import evidence, plant

from engine.api_evolution import ChampionsRecord, Change, PromoteRequest, PromotionCase, PromotionRecord, Steps
from engine.api_models import AdapterRecord
from engine.core import Engine
from engine.errors import ConflictError, NotFoundError
from engine.home import socket_path
from registry.models import NewAdapter, Source
from registry.samples import write_sample
from rune_tui.client import EngineClient
from rune_tui.client_registry import RegistryClient


def problem(answer: httpx.Response) -> tuple[int, str]:
    body = answer.json()
    assert set(body) == {"error", "message"} and body["message"]
    return answer.status_code, body["error"]


async def publish(engine: Engine, folder: Path, *names: str) -> None:
    for seed, name in enumerate(names):
        directory = await asyncio.to_thread(write_sample, folder / name, seed)
        await engine.registry.publish(directory, NewAdapter(id=name, task_type="sort", source=Source.QLORA))


async def test_a63_promotion_shows_its_case_and_needs_force_against_it(home: Path, tmp_path: Path) -> None:
    async with api(home) as (engine, client):
        await publish(engine, tmp_path, "a")
        case = PromotionCase.model_validate((await client.get("/promote/a")).json())
        assert (case.to_tier, case.incumbent, case.evidence) == ("domain", "base", None)
        assert case.objections
        assert problem(await client.post("/promote", json={"adapter_id": "a"})) == (409, "ConflictError")
        await plant(engine, evidence("a", (await engine.registry.get("a")).digest))
        case = PromotionCase.model_validate((await client.get("/promote/a")).json())
        assert (case.operation, case.objections) == ("evidence-1", ())
        promoted = AdapterRecord.model_validate((await client.post("/promote", json={"adapter_id": "a"})).json())
        assert promoted.tier == "domain"
        [move] = (await client.get("/adapters/a/promotions")).json()
        record = PromotionRecord.model_validate(move)
        assert record.evidence is not None
        assert (record.forced, record.evidence["e_value"]) == (False, 3.1e13)
        await engine.registry.update_fitness("a", 0.5, 0.25)
        [score] = (await client.get("/adapters/a/evaluations")).json()
        assert (score["fitness_score"], score["pass_rate"]) == (0.5, 0.25)


async def test_forced_promotion_rollback_and_undo_by_the_client(home: Path, tmp_path: Path) -> None:
    async with api(home) as (engine, _), EngineClient(socket_path(home)) as open_client:
        await publish(engine, tmp_path, "a", "b")
        client = RegistryClient(open_client)
        for name in "ab":
            case = await client.promotion_case(name, to_tier="project")
            await client.promote(request_of(case, force=True))
        assert (await client.promotions("b"))[0].forced
        assert await client.aliases() == {"sort@champion": "b", "sort@previous": "a"}
        now = await client.rollback("sort")
        assert now == ChampionsRecord(task_type="sort", champion="a", challenger=None, previous="b")
        steps = await client.steps()
        assert steps.redo is None and steps.undo is not None and steps.undo.what == "rolled back"
        undone = await client.undo(steps.undo.sequence)
        assert undone.undone and undone.sequence == steps.undo.sequence
        assert (await client.aliases())["sort@champion"] == "b"
        with pytest.raises(ConflictError, match="look again"):
            await client.undo(steps.undo.sequence)
        redone = await client.redo()
        assert not redone.undone
        history = await client.history(limit=3)
        assert [change.what for change in history] == ["rolled back", "promoted", "promoted"]
        assert history[1].forced
        assert await client.history(before=history[-1].sequence, adapter_id="a")
        with pytest.raises(NotFoundError):
            await client.promotions("nobody")


def request_of(case: PromotionCase, *, force: bool) -> PromoteRequest:
    return PromoteRequest(adapter_id=case.adapter_id, to_tier=case.to_tier, evidence=case.operation, force=force)


async def test_prune_keeps_what_others_rest_on(home: Path, tmp_path: Path) -> None:
    async with api(home) as (engine, client):
        await publish(engine, tmp_path, "a")
        refused = await client.post("/prune", json={"adapter_id": "a"})
        assert problem(refused) == (409, "ConflictError")
        assert "last adapter in use" in refused.json()["message"]
        forced = await client.post("/prune", json={"adapter_id": "a", "force": True})
        assert forced.json()["is_archived"] is True
        change = Change.model_validate((await client.post("/undo")).json())
        assert change.what == "archived"
        assert (await client.get("/adapters/a")).json()["is_archived"] is False
        steps = Steps.model_validate((await client.get("/history/next")).json())
        assert steps.redo is not None


async def test_aliases_are_set_and_taken_away(home: Path, tmp_path: Path) -> None:
    async with api(home) as (engine, client):
        await publish(engine, tmp_path, "a", "b")
        name = "sort@challenger"
        assert (await client.post("/aliases", json={"name": name, "adapter_id": "a"})).json() == {name: "a"}
        assert problem(await client.post("/aliases", json={"name": name, "adapter_id": "b"})) == (409, "ConflictError")
        moved = await client.post("/aliases", json={"name": name, "adapter_id": "b", "expected": "a"})
        assert moved.json() == (await client.get("/aliases")).json() == {name: "b"}
        assert (await client.post("/aliases", json={"name": name, "expected": "b"})).json() == {}
        bad = await client.post("/aliases", json={"name": "../x", "adapter_id": "a"})
        assert problem(bad) == (422, "AdapterRejectedError")


@pytest.mark.parametrize("name", ["sort@champion", "sort@previous"])
async def test_a63_the_champion_is_not_set_by_hand(home: Path, tmp_path: Path, name: str) -> None:
    """It would go round the evidence, unrecorded; and who must be beaten next could be chosen."""
    async with api(home) as (engine, client):
        await publish(engine, tmp_path, "a", "b")
        refused = await client.post("/aliases", json={"name": name, "adapter_id": "a"})
        assert problem(refused) == (409, "ConflictError") and "rune-tui promote" in refused.text
        for number, adapter in enumerate(("a", "b")):
            forced = await client.post("/promote", json={"adapter_id": adapter, "force": True})
            assert forced.status_code == 200, number
        before = (await client.get("/aliases")).json()
        assert before == {"sort@champion": "b", "sort@previous": "a"}
        taken = await client.post("/aliases", json={"name": name, "expected": before[name]})
        assert problem(taken) == (409, "ConflictError")
        assert (await client.get("/aliases")).json() == before


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/promote/nobody", None, 404),
        ("GET", "/promote/nobody?to_tier=world", None, 422),
        ("POST", "/promote", {"adapter_id": "nobody"}, 404),
        ("POST", "/promote", {"adapter_id": "../x"}, 422),
        ("POST", "/promote", {}, 422),
        ("POST", "/rollback/sort", None, 409),
        ("POST", "/rollback/..%2fx", None, 404),
        ("POST", "/prune", {"adapter_id": "nobody"}, 404),
        ("POST", "/undo", None, 409),
        ("POST", "/redo", {"expected": 3}, 409),
        ("POST", "/undo", {"expected": 0}, 422),
        ("GET", "/history?limit=0", None, 422),
        ("GET", "/history?limit=501", None, 422),
        ("GET", "/history?before=99999999999999999999", None, 422),
        ("GET", "/adapters/nobody/promotions", None, 404),
        ("GET", "/adapters/nobody/evaluations", None, 404),
    ],
)
async def test_a90_errors_are_problems_with_the_status_of_their_class(
    home: Path, method: str, path: str, body: object, status: int
) -> None:
    async with api(home) as (_, client):
        answer = await client.request(method, path, json=body)
        assert problem(answer)[0] == status
