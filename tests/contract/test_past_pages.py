"""`GET …/documents?at=`: a collection as it was, a page at a time, compared with what it is now."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx

from support.ruled import CANARY, MERGE, THINGS, Ruled, made
from support.waiting import eventually

from .test_openapi import check

Json = dict[str, Any]
PATH = "/v1/collections/{collection}/documents"


async def head_with(operator: httpx.AsyncClient, collection: str, id_text: str, events: int) -> str:
    """Return the position of a document's newest event, once it has so many."""

    async def found() -> str | None:
        query = {"collection": collection, "id": id_text}
        page = (await operator.get("/v1/admin/log", params=query)).json()
        return f"{page['log']}:{page['events'][0]['seq']}" if len(page["events"]) >= events else None

    position: str = await eventually(found, 20)
    return position


async def answered(client: httpx.AsyncClient, collection: str, query: Json) -> httpx.Response | None:
    """Return an answer, once the first snapshot is stored."""
    answer = await client.get(f"/v1/collections/{collection}/documents", params=query)
    return None if answer.status_code == 503 else answer


async def all_of(client: httpx.AsyncClient, collection: str, limit: int, **point: str) -> list[Json]:
    """Return the documents of all pages."""
    found: list[Json] = []
    query: dict[str, Any] = {"limit": limit, **point}
    while True:
        page = check(await eventually(lambda: answered(client, collection, dict(query)), 20), PATH, "get")
        assert len(page["documents"]) <= limit
        found += page["documents"]
        if "next" not in page:
            return found
        query["after"] = page["next"]


async def test_collection_is_listed_as_it_was(operator: httpx.AsyncClient, new_id: Callable[[], str]) -> None:
    path = "/v1/collections/closed/documents"
    name = new_id()
    ids = [f"{name}-{number}" for number in range(7)]
    for id_text in ids:
        (await operator.put(f"{path}/{id_text}", json={"n": 1})).raise_for_status()
    (await operator.put(f"{path}/{ids[0]}", json={"n": 2})).raise_for_status()
    position = await head_with(operator, "closed", ids[0], 2)
    (await operator.put(f"{path}/{ids[0]}", json={"n": 3})).raise_for_status()
    (await operator.delete(f"{path}/{ids[1]}")).raise_for_status()
    (await operator.put(f"{path}/{name}-later", json={"n": 1})).raise_for_status()
    await head_with(operator, "closed", f"{name}-later", 1)

    found = await all_of(operator, "closed", 2, position=position)
    mine = {row["id"]: row for row in found if row["id"].startswith(name)}
    assert len(found) == len({row["id"] for row in found})
    assert sorted(mine) == ids
    assert (mine[ids[0]]["doc"]["n"], mine[ids[0]]["version"], mine[ids[0]]["now"]) == (2, 2, "changed")
    assert mine[ids[1]]["now"] == "deleted"
    assert {mine[id_text]["now"] for id_text in ids[2:]} == {"same"}
    assert {row["position"] for row in found} == {position}


async def test_past_page_shows_what_its_reader_may_see_then_and_now(
    operator: httpx.AsyncClient, ada: httpx.AsyncClient, new_id: Callable[[], str]
) -> None:
    mine, lost, gone = new_id(), new_id(), new_id()
    for id_text in (mine, lost, gone):
        await made(operator, id_text)
    position = await head_with(operator, "things", gone, 1)
    (await operator.patch(f"{THINGS}/{lost}", json={"owner": "bob"}, headers=MERGE)).raise_for_status()
    (await operator.patch(f"{THINGS}/{mine}", json={"secret": f"{CANARY}-new"}, headers=MERGE)).raise_for_status()
    (await operator.delete(f"{THINGS}/{gone}")).raise_for_status()
    await head_with(operator, "things", gone, 2)
    rows = {row["id"]: row for row in await all_of(ada, "things", 100, position=position)}
    assert mine in rows
    assert not {lost, gone} & rows.keys()
    # What is hidden has changed, and nothing that is seen.
    assert rows[mine]["now"] == "same"
    assert CANARY not in str(rows)


async def test_cursor_names_no_document_that_its_reader_may_not_see(
    operator: httpx.AsyncClient, new_id: Callable[[], str], ruled: Ruled
) -> None:
    """Ids may be secrets. With pages of one, each document is the last one of a page."""
    name, owner = new_id(), new_id()
    owners = ["bob", owner, "bob", "bob", owner, owner, "bob"]
    for number, by in enumerate(owners):
        await made(operator, f"{name}-{number}", owner=by)
    position = await head_with(operator, "things", f"{name}-6", 1)
    async with ruled.client(owner) as client:
        first = check(await answered_once(operator, {"limit": 1, "position": position}), PATH, "get")
        for limit in (1, 2, 3):
            found: list[str] = []
            cursors: list[str] = []
            after = f"{first['next'].partition('.')[0]}.created.0.{name}"
            # As many pages as there are documents of these.
            for _ in range(-(-len(owners) // limit)):
                page = check(
                    await answered_once(client, {"limit": limit, "position": position, "after": after}), PATH, "get"
                )
                found += [row["id"] for row in page["documents"]]
                if "next" not in page:
                    break
                after = page["next"]
                cursors.append(after.split(".", 3)[3])
            assert found == [f"{name}-{number}" for number, by in enumerate(owners) if by == owner]
            assert cursors
            assert set(cursors) <= {name, *found}


async def answered_once(client: httpx.AsyncClient, query: Json) -> httpx.Response:
    answer: httpx.Response = await eventually(lambda: answered(client, "things", query), 20)
    return answer


async def test_bad_points_and_cursors_are_refused(operator: httpx.AsyncClient) -> None:
    path = "/v1/collections/open/documents"
    log = (await operator.get("/v1/admin/log")).json()["log"]
    for query, status, code in (
        ({"at": "yesterday"}, 400, "malformed"),
        ({"at": "2999-01-01T00:00:00Z"}, 400, "malformed"),
        ({"at": "2001-01-01T00:00:00Z"}, 410, "gone"),
        ({"position": f"{log}:999999"}, 400, "malformed"),
        ({"position": "zzzzzzzz:1"}, 409, "reset"),
        ({"position": f"{log}:0", "sort": "n"}, 400, "malformed"),
        ({"position": f"{log}:0", "at": "2001-01-01T00:00:00Z"}, 400, "malformed"),
        ({"position": f"{log}:0", "after": "x"}, 400, "malformed"),
    ):
        answer = await operator.get(path, params=query)
        assert (answer.status_code, answer.json()["code"]) == (status, code), query
