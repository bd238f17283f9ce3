"""Requests at the same time to one server: each answer is about its own write, and the events say the same."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from jsonpatch import apply_patch

from support.systems import events_of

NewId = Callable[[], str]
MERGE = {"content-type": "application/merge-patch+json"}
PATCH = {"content-type": "application/json-patch+json"}


@pytest.fixture
async def paths(api: httpx.AsyncClient, new_id: NewId) -> list[str]:
    made = [f"/{new_id()}" for _ in range(6)]
    for path in made:
        assert (await api.put(path, json={"n": 1, "l": []})).status_code == 201
    return made


async def append(api: httpx.AsyncClient, path: str, item: Any, **headers: str) -> httpx.Response:
    change = [{"op": "add", "path": "/l/-", "value": item}]
    return await api.patch(path, json=change, headers=PATCH | headers)


async def history(served: Any, path: str, count: int) -> list[dict[str, Any]]:
    return await events_of(served.url, f"things{path}", count, seconds=30)


async def test_each_answer_is_about_its_own_write(served: Any, api: httpx.AsyncClient, paths: list[str]) -> None:
    """Eight writers append to six documents, twenty times each."""
    made: dict[str, dict[int, Any]] = {path: {} for path in paths}

    async def write(writer: int) -> None:
        for number in range(20):
            path, item = paths[(writer + number) % len(paths)], f"{writer}.{number}"
            answer = await append(api, path, item)
            assert answer.is_success, answer.text
            body = answer.json()
            assert body["id"] == path[1:]
            assert body["patch"] == [{"op": "add", "path": f"/l/{body['version'] - 2}", "value": item}]
            assert body["doc"]["l"][-1] == item
            assert answer.headers["etag"].startswith(f'"{body["version"]}.')
            made[path][body["version"]] = body["doc"]

    await asyncio.gather(*map(write, range(8)))
    assert sum(map(len, made.values())) == 160, "a version each"
    for path, documents in made.items():
        events = await history(served, path, len(documents) + 1)
        assert [event["version"] for event in events] == list(range(1, len(documents) + 2))
        state = events[0]["doc"]
        for event in events[1:]:
            state = apply_patch(state, event["patch"])
            assert state == documents[event["version"]]
        assert len({event["op_id"] for event in events}) == len(events)


async def test_one_of_several_writes_with_the_same_entity_tag_succeeds(
    api: httpx.AsyncClient, paths: list[str]
) -> None:
    tag = (await api.get(paths[0])).headers["etag"]
    answers = await asyncio.gather(*(append(api, paths[0], n, **{"if-match": tag}) for n in range(20)))
    assert sorted(answer.status_code for answer in answers) == [200] + [412] * 19
    winner = next(answer for answer in answers if answer.is_success)
    assert (await api.get(paths[0])).headers["etag"] == winner.headers["etag"]


async def test_a_refused_write_spoils_none_of_the_others(
    served: Any, api: httpx.AsyncClient, paths: list[str], new_id: NewId
) -> None:
    await served.collection.create_index("alone", unique=True, partialFilterExpression={"alone": {"$exists": True}})
    value = new_id()
    assert (await api.patch(paths[0], json={"alone": value}, headers=MERGE)).is_success
    failing = [{"op": "test", "path": "/n", "value": 7}]
    refused = {
        409: api.patch(paths[1], json={"alone": value}, headers=MERGE),
        422: api.patch(paths[2], json=failing, headers=PATCH),
        404: api.patch(f"/{new_id()}", json={"a": 1}, headers=MERGE),
        412: api.patch(paths[3], json={"a": 1}, headers=MERGE | {"if-match": '"77"'}),
        413: api.patch(paths[4], json={"a": "x" * 300_000}, headers=MERGE),
    }
    good = [append(api, path, n, prefer="return=minimal") for n in range(3) for path in paths]
    answers = await asyncio.gather(*good[::2], *refused.values(), *good[1::2])
    told = [answer.status_code for answer in answers]
    assert told == [200] * 9 + list(refused) + [200] * 9
    for path in paths:
        document = (await api.get(path)).json()["doc"]
        assert sorted(document["l"]) == [0, 1, 2]
        assert document.get("alone") == (value if path == paths[0] else None)
        assert "a" not in document


@pytest.mark.slow
async def test_writes_deletes_and_foreign_writers_at_the_same_time(
    served: Any, api: httpx.AsyncClient, paths: list[str]
) -> None:
    """Acknowledged writes are in the history with the same versions; refused ones have left nothing."""
    path, told = paths[0], list[tuple[str, int]]()

    async def write(number: int) -> None:
        for turn in range(10):
            if (number + turn) % 7 == 0:
                answer = await api.delete(path)
            elif (number + turn) % 5 == 0:
                answer = await api.put(path, json={"n": number, "l": []})
            else:
                answer = await append(api, path, number)
            assert answer.status_code in {200, 201, 404}, answer.text
            if answer.is_success:
                body = answer.json()
                told.append(("delete" if body["doc"] is None else "write", body["version"]))

    async def stranger() -> None:
        for _ in range(20):
            await served.collection.update_one({"_id": path[1:]}, {"$inc": {"f": 1}})

    await asyncio.gather(*map(write, range(8)), stranger(), stranger())
    assert (await api.put(path, json={"n": "the end"})).is_success
    events = await history(served, path, 1)
    while "the end" not in str(events[-1]):
        events = await history(served, path, len(events) + 1)
    own = [("delete" if event["op"] == "delete" else "write", event["version"]) for event in events if "by" in event]
    assert sorted(own[1:-1]) == sorted(told)
