"""Clients under rules hold exactly what they may see of a shape, whatever they missed, over each transport."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from eventsync.domain.access.rules import read_access
from eventsync.domain.predicates.definitions import define
from eventsync.settings import Settings
from eventsync.stores.log.definitions import Declaration
from eventsync.stores.stores import Stores
from support.clients import PEERS, Follower, following
from support.identity import secret_file, token
from support.replay import caught_up
from support.systems import running_system
from support.waiting import eventually, patience

CANARY = "canary-4f1b"
BY_STATE = define("by_state", "docs", {"state": "$state"}, {"state": ["text"]})
READ = {"$or": [{"owner": "$claims.sub"}, {"readers": "$claims.sub"}]}
USER = {"read": READ, "hide": ["secret", "lines.*.cost"]}
RULES: dict[str, Any] = {
    "roles": {"user": True, "auditor": {"roles": "audit"}},
    "collections": {"docs": {"user": USER, "auditor": {"read": True, "hide": ["secret", "lines.*.cost"]}}},
}


def token_of(sub: str, **claims: Any) -> str:
    return token(now=time.time(), sub=sub, **claims)


def client_of(url: str, sub: str, **claims: Any) -> httpx.AsyncClient:
    headers = {"Authorization": f"Bearer {token_of(sub, **claims)}"}
    return httpx.AsyncClient(base_url=url, timeout=patience(20), headers=headers)


async def apply(stores: Stores, folder: Path, rules: Mapping[str, Any] = RULES) -> None:
    """Put rules in force, with a declared shape beside them."""
    issuer = {"iss": "backend", "secret_file": str(secret_file(folder)), "algorithms": ["HS256"]}
    found, problems = read_access({"auth": {"issuers": [issuer]}, **rules})
    assert found is not None, problems
    await stores.definitions.apply(
        [Declaration.of(each) for each in (BY_STATE, *found.definitions.values())], found.spec
    )


async def served(url: str, *shapes: str) -> None:
    """Wait until a server serves these shapes to `ada`."""
    async with client_of(url, "ada") as client:

        async def answered() -> bool:
            answers = [await client.get("/v1/sync/snapshot", params={"shape": shape}) for shape in shapes]
            return all(answer.status_code == httpx.codes.OK for answer in answers)

        await eventually(answered, 20)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"collections": ("docs",)})


@pytest.fixture
async def url(stores: Stores, settings: Settings, tmp_path: Path) -> AsyncIterator[str]:
    async with running_system(settings) as url:
        await apply(stores, tmp_path)
        await served(url, "docs", "by_state?state=open")
        yield url


def shown(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return what readers see of a document."""
    found = {name: value for name, value in document.items() if name != "secret"}
    if isinstance(found.get("lines"), list):
        found["lines"] = [{name: value for name, value in line.items() if name != "cost"} for line in found["lines"]]
    return found


async def expected(stores: Stores, where: Mapping[str, Any]) -> dict[str, Any]:
    """Return what MongoDB finds, as readers see it."""
    return {f"int:{item['_id']}": shown(item) async for item in stores.data["docs"].find(where)}


def may_read(sub: str) -> dict[str, Any]:
    return {"$or": [{"owner": sub}, {"readers": sub}]}


async def head(stores: Stores) -> str:
    log = await caught_up(stores)
    return f"{log}:{await stores.events.head(log)}"


@pytest.mark.parametrize("transport", PEERS)
async def test_documents_enter_and_leave_with_their_owner(stores: Stores, url: str, transport: str) -> None:
    docs = stores.data["docs"]
    await docs.insert_many([{"_id": 1, "owner": "ada", "secret": CANARY}, {"_id": 2, "owner": "bob", "secret": CANARY}])
    await caught_up(stores)
    async with following(url, "docs", transport, token=token_of("ada")) as follower:
        await follower.has("int:1")
        await docs.update_one({"_id": 2}, {"$set": {"readers": ["ada"], "n": 5}})
        await follower.has("int:2")
        await docs.update_one({"_id": 2}, {"$set": {"n": 6, "secret": CANARY + "2"}})
        await docs.update_one({"_id": 1}, {"$set": {"owner": "bob"}})
        await docs.update_one({"_id": 1}, {"$set": {"note": CANARY}})
        await follower.reached(await head(stores))
        assert follower.replica.documents == {"int:2": {"_id": 2, "owner": "bob", "readers": ["ada"], "n": 6}}
        assert (follower.replica.snapshots, follower.replica.resets) == (1, 0)
        assert follower.replica.events == 3


SHAPES: dict[str, dict[str, Any]] = {
    "docs": {},
    "by_state?state=open": {"state": "open"},
    "docs/int:3": {"_id": 3},
}


def drawn(chance: random.Random) -> dict[str, Any]:
    return {
        "owner": chance.choice(["ada", "bob", "eve"]),
        "readers": chance.sample(["ada", "bob", "eve"], chance.randint(0, 2)),
        "state": chance.choice(["open", "closed"]),
        "secret": f"{CANARY}-{chance.randint(0, 99)}",
        "lines": [{"cost": f"{CANARY}-{chance.randint(0, 9)}", "n": n} for n in range(chance.randint(0, 2))],
        "n": chance.randint(0, 99),
    }


async def change(stores: Stores, chance: random.Random) -> None:
    """Change one document of ten: all of it, one field, or nothing but its existence."""
    docs, one = stores.data["docs"], {"_id": chance.randint(0, 9)}
    fields = drawn(chance)
    match chance.randint(0, 9):
        case 0:
            await docs.delete_one(one)
        case 1 | 2:
            await docs.replace_one(one, fields, upsert=True)
        case 3:
            await docs.update_one(one, {"$unset": {chance.choice(list(fields)): ""}})
        case _:
            name = chance.choice(list(fields))
            await docs.update_one(one, {"$set": {name: fields[name]}}, upsert=True)


@pytest.mark.parametrize("window_bytes", [64 * 1024 * 1024, 1])
@pytest.mark.parametrize("seed", range(2))
async def test_all_clients_hold_what_mongodb_finds_for_them(
    stores: Stores, settings: Settings, tmp_path: Path, window_bytes: int, seed: int
) -> None:
    """With a window of one event, what they missed comes from MongoDB: as events, squashed, or as a snapshot."""
    chance = random.Random(seed)
    settings = settings.model_copy(update={"window_bytes": window_bytes})
    async with running_system(settings) as url, AsyncExitStack() as stack:
        for _ in range(30):
            await change(stores, chance)
        await apply(stores, tmp_path)
        await served(url, *SHAPES)
        followers: list[tuple[Follower, dict[str, Any]]] = []
        for transport in PEERS:
            for shape, where in SHAPES.items():
                for sub, rule in (("ada", may_read("ada")), ("eve", may_read("eve")), ("max", {})):
                    credential = token_of(sub, roles=["audit"]) if sub == "max" else token_of(sub)
                    entered = following(url, shape, transport, seed=seed, cut_after=3, token=credential)
                    followers.append((await stack.enter_async_context(entered), {"$and": [where, rule]}))
        for _ in range(150):
            await change(stores, chance)
            if chance.random() < 0.05:
                await caught_up(stores)
        position = await head(stores)
        for follower, where in followers:
            await follower.reached(position, seconds=40)
            assert follower.replica.documents == await expected(stores, where), follower.name
            assert follower.replica.resets == 0
