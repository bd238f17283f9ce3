"""Rules and races: no write gets through that the state which it replaces does not allow."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncGenerator, Callable
from functools import partial
from typing import Any

import httpx
import pytest
from pymongo.asynchronous.collection import AsyncCollection

from eventsync.api import batch
from eventsync.domain.patches.json_patch import JsonPatch
from eventsync.mongodb.client import connect
from eventsync.stores.access.revocations import of_subject
from eventsync.stores.stores import Stores
from support.ruled import MERGE, THINGS, Ruled
from support.waiting import eventually

WRITES = 40

Json = dict[str, Any]


async def patched(client: httpx.AsyncClient, at: str, mark: str) -> int:
    return (await client.patch(f"{THINGS}/{at}", json={"mark": mark}, headers=MERGE)).status_code


async def put(client: httpx.AsyncClient, at: str, mark: str) -> int:
    return (await client.put(f"{THINGS}/{at}", json={"owner": "ada", "mark": mark})).status_code


async def transacted(client: httpx.AsyncClient, at: str, mark: str) -> int:
    item = {"method": "PATCH", "collection": "things", "id": at, "patch": {"mark": mark}}
    return (await client.post("/v1/transactions", json={"operations": [item, {**item, "patch": {"n": 1}}]})).status_code


async def batched(client: httpx.AsyncClient, at: str, mark: str) -> int:
    items = [{"method": "PATCH", "id": at, "patch": {"mark": f"{mark}-{number}"}} for number in range(3)]
    results = (await client.post(f"{THINGS}:batch", json={"operations": items})).json()["results"]
    return int(results[-1]["status"])


async def large(client: httpx.AsyncClient, at: str, mark: str) -> int:
    """Decided by a helper process."""
    body = {"mark": mark + "x" * 30_000}
    return (await client.patch(f"{THINGS}/{at}", json=body, headers=MERGE)).status_code


@pytest.mark.slow
@pytest.mark.parametrize("write", [patched, put, transacted, batched, large])
async def test_write_that_races_an_owner_change_is_decided_on_the_state_that_it_replaces(
    ruled: Ruled,
    operator: httpx.AsyncClient,
    things: AsyncCollection[Json],
    new_id: Callable[[], str],
    write: Any,
) -> None:
    chance, ids = random.Random(1), [new_id() for _ in range(3)]
    await things.insert_many([{"_id": at, "owner": "ada"} for at in ids])
    statuses: list[int] = []
    ended = asyncio.Event()

    async def give_and_take() -> None:
        while not ended.is_set():
            await things.update_one({"_id": chance.choice(ids)}, {"$set": {"owner": chance.choice(["ada", "bob"])}})

    async def by_ada(number: int) -> None:
        async with ruled.client("ada") as ada:
            for turn in range(WRITES // 4):
                status = await write(ada, chance.choice(ids), f"m-{number}-{turn}")
                statuses.append(status)

    async with asyncio.TaskGroup() as group:
        changing = [group.create_task(give_and_take()) for _ in range(2)]
        await asyncio.gather(*(by_ada(number) for number in range(4)))
        ended.set()
        await asyncio.gather(*changing)
    # PUT finds the id of a document taken that is not ada's: to her, it does not exist.
    assert set(statuses) <= {200, 404, 409}
    assert 200 in statuses
    assert len(set(statuses)) > 1
    for at in ids:
        await things.update_one({"_id": at}, {"$set": {"last": True}})
        events = await eventually(partial(whole_history, operator, at), 15)
        by_others = [event for event in events if not _is_allowed(event)]
        assert by_others == []


async def revoke(ruled: Ruled, sub: str) -> None:
    """Revoke the tokens of a subject, and wait until the server knows."""
    changes = ruled.control.changes
    async with connect(ruled.settings, "test") as client:
        await Stores.of(client, ruled.settings).credentials.revocations.add(of_subject(sub), 3600)

    async def known() -> bool:
        return ruled.control.changes > changes

    await eventually(known, 30)


async def in_two_parts(body: bytes, begun: Callable[[], Any], between: Callable[[], Any]) -> AsyncGenerator[bytes]:
    """Yield a body: the rest of it once the server has begun with the request, and something has happened."""
    yield body[:5]
    await eventually(begun, 30)
    await between()
    yield body[5:]


@pytest.mark.parametrize("kind", ["patch", "create", "transaction", "ticket"])
async def test_body_of_a_principal_that_is_revoked_meanwhile_is_refused(
    ruled: Ruled, things: AsyncCollection[Json], new_id: Callable[[], str], kind: str
) -> None:
    """Else a client with open requests could write for half a minute longer."""
    sub, at = new_id(), new_id()
    await things.insert_one({"_id": at, "owner": sub})
    edit = {"method": "PATCH", "collection": "things", "id": at, "patch": {"mark": 1}}
    method, path, tree = {
        "patch": ("PATCH", f"{THINGS}/{at}", {"mark": 1}),
        "create": ("POST", THINGS, {"owner": sub, "mark": 1}),
        "transaction": ("POST", "/v1/transactions", {"operations": [edit]}),
        "ticket": ("POST", "/v1/tickets", {"shapes": ["things"]}),
    }[kind]
    headers = MERGE if kind == "patch" else {"Content-Type": "application/json"}
    before = ruled.control.authenticated

    async def authenticated() -> bool:
        return ruled.control.authenticated > before

    async with ruled.client(sub) as client:
        body = in_two_parts(json.dumps(tree).encode(), authenticated, partial(revoke, ruled, sub))
        answer = await client.request(method, path, content=body, headers=headers)
    assert (answer.status_code, answer.json()["reason"]) == (401, "token_revoked")
    assert await things.count_documents({"owner": sub, "mark": 1}) == 0


async def test_batch_ends_where_its_principal_is_revoked(
    ruled: Ruled, things: AsyncCollection[Json], new_id: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sub, seen = new_id(), 0
    lines = [json.dumps({"method": "POST", "doc": {"owner": sub, "n": number}}) for number in range(40)]

    async def turn(_: int) -> None:
        nonlocal seen
        seen += 1
        if seen == 20:
            await revoke(ruled, sub)

    monkeypatch.setattr(batch, "turn", turn)
    headers = {"Content-Type": "application/x-ndjson", "Prefer": "return=minimal"}
    async with ruled.client(sub) as client:
        answer = await client.post(f"{THINGS}:batch", content="\n".join(lines), headers=headers)
    statuses = [json.loads(line)["status"] for line in answer.text.splitlines()]
    assert statuses == [201] * 19 + [401] * 21
    assert await things.count_documents({"owner": sub}) == 19


async def whole_history(operator: httpx.AsyncClient, at: str) -> list[Json]:
    """Return all events of a document with the owner before each; nothing until the last one is there."""
    answer = await operator.get(f"{THINGS}/{at}/events", params={"limit": 1000})
    state: Any = None
    found = []
    for event in answer.json()["events"]:
        found.append({**event, "owner_before": None if state is None else state["owner"]})
        if event["op"] == "update":
            edit = JsonPatch(event["patch"]).prepared(operations=100, document_bytes=10**7, steps=10**7)
            state = edit(state)
        else:
            state = event["doc"]
    return found if state is not None and state.get("last") else []


def _is_allowed(event: Json) -> bool:
    """Return True for an event that is not ada's, or that she made of a document of hers."""
    touched = [operation["path"] for operation in event.get("patch", ())]
    return "/mark" not in touched or event["owner_before"] == "ada"
