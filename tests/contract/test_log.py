"""`GET /v1/sync/log` and `GET /v1/sync/snapshot`: the HTTP transport."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from support.systems import events_of

NewId = Callable[[], str]
LOG = "/v1/sync/log"
MERGE = {"content-type": "application/merge-patch+json"}


async def log_id(root: httpx.AsyncClient) -> str:
    return str((await root.get("/readyz")).json()["position"]).split(":")[0]


async def test_full_pages_are_immutable(served: Any, root: httpx.AsyncClient, api: Any, new_id: NewId) -> None:
    key = new_id()
    for number in range(5):
        await api.put(f"/{key}", json={"n": number})
    shape = f"things/{key}"
    everything = await events_of(served.url, shape, 5)
    position, events, pages = await log_id(root) + ":0", [], []
    while True:
        query: dict[str, Any] = {"shape": shape, "position": position, "limit": 2}
        answer = await root.get(LOG, params=query)
        page = answer.json()
        assert page["from"] == position
        events += page["events"]
        if page["live"]:
            assert answer.headers["cache-control"] == "no-store"
            break
        assert "immutable" in answer.headers["cache-control"]
        assert (await root.get(LOG, params=query)).content == answer.content
        same = await root.get(LOG, params=query, headers={"if-none-match": answer.headers["etag"]})
        assert (same.status_code, same.content) == (304, b"")
        pages.append(answer.headers["etag"])
        position = page["to"]
    assert events == everything
    assert len(set(pages)) == 2


async def test_wait_ends_with_the_next_event(root: httpx.AsyncClient, api: Any, new_id: NewId) -> None:
    key = new_id()
    query: dict[str, Any] = {"shape": f"things/{key}", "position": await log_id(root) + ":0", "wait": 10}
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(root.get(LOG, params=query))
        await api.put(f"/{key}", json={})
    page = waiting.result().json()
    assert [event["id"] for event in page["events"]] == [key]


async def test_page_without_events_advances_the_position(root: httpx.AsyncClient, new_id: NewId) -> None:
    query: dict[str, Any] = {"shape": f"things/{new_id()}", "position": await log_id(root) + ":0", "wait": 0.05}
    page = (await root.get(LOG, params=query)).json()
    assert (page["events"], page["live"]) == ([], True)
    assert int(page["to"].split(":")[1]) > 0


async def test_page_without_a_position_begins_now(root: httpx.AsyncClient, api: Any, new_id: NewId) -> None:
    key = new_id()
    shape = f"things/{key}"
    await api.put(f"/{key}", json={"n": 1})
    query: dict[str, Any] = {"shape": shape, "position": await log_id(root) + ":0", "wait": 10}
    known = (await root.get(LOG, params=query)).json()
    page = (await root.get(LOG, params={"shape": shape})).json()
    assert (page["events"], page["live"], page["from"]) == ([], True, page["to"])
    assert int(page["to"].split(":")[1]) >= int(known["to"].split(":")[1])
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(root.get(LOG, params={"shape": shape, "wait": 10, "limit": 1}))
        while not waiting.done():
            await api.patch(f"/{key}", json={"n": new_id()}, headers=MERGE)
            await asyncio.wait({waiting}, timeout=0.05)
    assert [event["op"] for event in waiting.result().json()["events"]] == ["update"]
    # Also a full page is another one the next time.
    assert waiting.result().headers["cache-control"] == "no-store"
    missing = await root.get(LOG, params={"shape": "secrets"})
    assert (missing.status_code, missing.json()["code"]) == (404, "not_tracked")


@pytest.mark.parametrize("position", ["zzzzzzzz:1", "future"])
async def test_position_that_can_not_be_continued_is_409(root: httpx.AsyncClient, position: str) -> None:
    if position == "future":
        position = f"{await log_id(root)}:{10**15}"
    answer = await root.get(LOG, params={"shape": "things", "position": position})
    assert (answer.status_code, answer.json()["code"]) == (409, "reset")
    assert answer.json()["reason"] in {"unknown_log", "future"}
    for name in ("oldest", "head"):
        again = await root.get(LOG, params={"shape": "things", "position": answer.json()[name]})
        assert again.status_code == 200, name


@pytest.mark.parametrize(
    "query",
    [
        {"position": "a:1"},
        {"shape": "things", "position": "a"},
        {"shape": "things", "position": "a:1", "wait": "soon"},
        {"shape": "things", "position": "a:1", "wait": "-1"},
        {"shape": "things", "position": "a:1", "wait": "nan"},
        {"shape": "things", "position": "a:1", "limit": "0"},
    ],
)
async def test_malformed_parameters_are_400(root: httpx.AsyncClient, query: dict[str, str]) -> None:
    answer = await root.get(LOG, params=query)
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed")


async def test_snapshot_and_the_events_after_it_are_the_state(root: httpx.AsyncClient, api: Any, new_id: NewId) -> None:
    key = new_id()
    await api.put(f"/{key}", json={"n": 1})
    answer = await root.get("/v1/sync/snapshot", params={"shape": f"things/{key}"})
    assert answer.headers["content-type"] == "application/x-ndjson"
    head, *rows = map(json.loads, answer.text.splitlines())
    assert head["shape"] == f"things/{key}"
    page = (await root.get(LOG, params={"shape": head["shape"], "position": head["position"], "wait": "5"})).json()
    versions = [row["version"] for row in rows] + [event["version"] for event in page["events"]]
    assert versions == [1], "the document is in one of the two, never in both"
    missing = await root.get("/v1/sync/snapshot", params={"shape": "secrets"})
    assert (missing.status_code, missing.json()["code"]) == (404, "not_tracked")
