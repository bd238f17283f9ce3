"""`/v1/admin/tasks`: restores of collections and verifications, with progress and results."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from eventsync.domain.positions import Position
from eventsync.mongodb.client import Client, app_name, connect
from eventsync.stores.stores import Stores
from support.failpoints import blocking
from support.ruled import CANARY, Ruled
from support.systems import running_server
from support.waiting import eventually, patience, scaled

from .test_admin import code_of
from .test_openapi import check
from .test_past_pages import head_with

Json = dict[str, Any]
RESTORES = "/v1/admin/collections/{collection}/restores"
VERIFICATIONS = "/v1/admin/collections/{collection}/verifications"


async def ended(operator: httpx.AsyncClient, task_id: str) -> Json:
    """Return a task once it has ended."""

    async def found() -> Json | None:
        listed = check(await operator.get("/v1/admin/tasks"), "/v1/admin/tasks", "get")["tasks"]
        return next((task for task in listed if task["id"] == task_id and task["state"] != "running"), None)

    task: Json = await eventually(found, 40)
    return task


async def known(operator: httpx.AsyncClient, collection: str) -> Json:
    """Return the known history of a collection, once its first snapshot is stored."""
    path = "/v1/admin/collections/{collection}/history"

    async def found() -> Json | None:
        answer = await operator.get(path.format(collection=collection))
        return None if answer.status_code == 503 else check(answer, path, "get")

    history: Json = await eventually(found, 20)
    return history


async def test_collection_is_restored_as_it_was(
    operator: httpx.AsyncClient, ruled: Ruled, new_id: Callable[[], str], caplog: pytest.LogCaptureFixture
) -> None:
    name, path = new_id(), "/v1/collections/closed/documents"
    (await operator.put(f"{path}/{name}", json={"n": 1})).raise_for_status()
    (await operator.put(f"{path}/{name}", json={"n": 2})).raise_for_status()
    position = await head_with(operator, "closed", name, 2)
    (await operator.delete(f"{path}/{name}")).raise_for_status()
    assert (await known(operator, "closed"))["since"].split(":")[0] == position.split(":")[0]

    into = f"restored_{name}"
    body = {"into": into, "position": position}
    with caplog.at_level(logging.INFO, logger="eventsync.access.audit"):
        begun = check(await operator.post(RESTORES.format(collection="closed"), json=body), RESTORES, "post")
    assert (begun["state"], begun["by"]) == ("running", "root")
    task = await ended(operator, begun["id"])
    assert (task["state"], task["reason"], task["result"]["into"]) == ("done", None, into)
    assert task["done"] == task["total"] or task["done"] > 0
    (line,) = [record.getMessage() for record in caplog.records if '"restore"' in record.getMessage()]
    assert 'subject="root"' in line

    # What is there is what was there, and it can be followed once it is tracked.
    (await operator.put(f"/v1/admin/collections/{into}")).raise_for_status()

    async def read() -> Json | None:
        answer = await operator.get(f"/v1/collections/{into}/documents/{name}")
        return answer.json() if answer.status_code == 200 else None

    restored = await eventually(read, 30)
    assert (restored["doc"]["n"], restored["version"]) == (2, 2)
    assert await code_of(operator, "POST", RESTORES.format(collection="closed"), json=body) == (409, "conflict")


async def test_task_of_another_server_is_listed(
    operator: httpx.AsyncClient, ruled: Ruled, new_id: Callable[[], str]
) -> None:
    await known(operator, "open")
    position = (await known(operator, "open"))["head"]
    async with (
        running_server(ruled.settings) as other,
        httpx.AsyncClient(base_url=other, headers=operator.headers, timeout=patience(20)) as beside,
    ):
        body = {"into": f"beside_{new_id()}", "position": position}
        begun = check(await beside.post(RESTORES.format(collection="open"), json=body), RESTORES, "post")
        task = await ended(operator, begun["id"])
        assert (task["state"], task["server"]) == ("done", begun["server"])
    assert await code_of(operator, "DELETE", f"/v1/admin/tasks/{begun['id']}") == (404, "not_found")


@pytest.mark.slow
@pytest.mark.parametrize("door", ["its server", "another server"])
async def test_cancelled_restore_leaves_nothing(
    operator: httpx.AsyncClient, ruled: Ruled, client: Client, new_id: Callable[[], str], door: str
) -> None:
    await known(operator, "open")
    (await operator.put(f"/v1/collections/open/documents/{(name := new_id())}", json={"n": 1})).raise_for_status()
    position, into = await head_with(operator, "open", name, 1), f"cancelled_{name}"

    async def built() -> list[str]:
        found = await client[ruled.settings.database].list_collection_names()
        return [name for name in found if name.startswith(into)]

    # It is in the middle of its first insert when it is cancelled.
    slow = blocking(client, ["insert"], round(scaled(1500)), app=app_name(ruled.settings, "restore"))
    async with running_server(ruled.settings) as other, slow:
        body = {"into": into, "position": position}
        begun = check(await operator.post(RESTORES.format(collection="open"), json=body), RESTORES, "post")
        assert begun["state"] == "running"
        (half,) = await eventually(built, 20)
        assert half.startswith(f"{into}.restoring-")
        async with httpx.AsyncClient(base_url=other, headers=operator.headers, timeout=patience(20)) as beside:
            asked = operator if door == "its server" else beside
            # Another server knows it from the next report of its own server on.
            await eventually(lambda: _lists(asked, begun["id"]), 20)
            cancelled = await asked.delete(f"/v1/admin/tasks/{begun['id']}")
            check(cancelled, "/v1/admin/tasks/{id}", "delete")
            assert cancelled.status_code == 202
        task = await ended(operator, begun["id"])
    assert (task["state"], task["result"], task["reason"]) == ("cancelled", None, None)
    assert await built() == []
    assert await client[ruled.settings.log_db]["restores"].count_documents({"into": into}) == 0
    assert await code_of(operator, "DELETE", f"/v1/admin/tasks/{begun['id']}") == (404, "not_found")
    (await operator.post(RESTORES.format(collection="open"), json=body)).raise_for_status()
    assert await eventually(lambda: _is(built, [into]), 30)


async def _lists(asked: httpx.AsyncClient, task_id: str) -> bool:
    return task_id in [task["id"] for task in (await asked.get("/v1/admin/tasks")).json()["tasks"]]


async def _is(found: Callable[[], Awaitable[list[str]]], expected: list[str]) -> bool:
    return await found() == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"into": "x"}, (400, "malformed")),
        ({"into": "$x", "at": "2026-11-23T05:22:46Z"}, (400, "malformed")),
        ({"into": "x" * 110, "at": "2026-11-23T05:22:46Z"}, (400, "malformed")),
        ({"into": "x", "at": 7}, (400, "malformed")),
        ({"into": "x", "at": "2999-01-01T00:00:00Z"}, (400, "malformed")),
        ({"into": "x", "position": "zzzzzzzz:1"}, (409, "reset")),
        ({"into": "x", "at": "2001-01-01T00:00:00Z"}, (410, "gone")),
    ],
)
async def test_bad_requests_begin_nothing(operator: httpx.AsyncClient, body: Json, expected: tuple[int, str]) -> None:
    await known(operator, "open")
    assert await code_of(operator, "POST", RESTORES.format(collection="open"), json=body) == expected


async def verified(operator: httpx.AsyncClient, path: str, **names: str) -> Json:
    """Verify, and return the task once it has ended."""
    begun = check(await operator.post(path.format(**names)), path, "post")
    assert (begun["kind"], begun["state"]) == ("verify", "running")
    return await ended(operator, begun["id"])


@pytest.mark.slow
async def test_verification_names_the_document_that_differs(
    operator: httpx.AsyncClient, ruled: Ruled, new_id: Callable[[], str], caplog: pytest.LogCaptureFixture
) -> None:
    id_ = new_id()

    async def first_snapshot() -> list[Json]:
        query = {"collection": "closed"}
        listed: list[Json] = (await operator.get("/v1/admin/snapshots", params=query)).json()["snapshots"]
        return [each for each in listed if each["complete"]]

    # It would have the document otherwise.
    await eventually(first_snapshot, 20)
    (await operator.put(f"/v1/collections/closed/documents/{id_}", json={"secret": CANARY})).raise_for_status()
    # The newest event is watched over: a new log would begin once it is another one.
    newest = new_id()
    (await operator.put(f"/v1/collections/closed/documents/{newest}", json={})).raise_for_status()
    position = Position.parse(await head_with(operator, "closed", newest, 1))

    async with connect(ruled.settings, "test") as client:
        logs = Stores.of(client, ruled.settings).logs

        async def is_recorded() -> bool:
            checkpoint = await logs.read_checkpoint(position.log)
            return checkpoint is not None and checkpoint.seq >= position.seq

        # A verification compares as of the newest checkpoint.
        await eventually(is_recorded, 20)
    with caplog.at_level(logging.INFO, logger="eventsync.access.audit"):
        task = await verified(operator, VERIFICATIONS, collection="closed")
    assert (task["state"], task["target"], task["by"]) == ("done", "closed", "root")
    assert task["result"] | {"head": ""} == {
        "whole": True, "head": "", "collections": 1, "findings": [], "more": 0, "note": None,
    }  # fmt: skip
    (line,) = [record.getMessage() for record in caplog.records if '"verify"' in record.getMessage()]
    assert 'subject="root"' in line

    async with connect(ruled.settings, "test") as client:
        events = client[ruled.settings.log_db]["events"]
        await events.update_one({"i": id_}, {"$set": {"c": "elsewhere"}})
        try:
            task = await verified(operator, "/v1/admin/verifications")
        finally:
            await events.update_one({"i": id_}, {"$set": {"c": "closed"}})
    assert (task["state"], task["target"], task["result"]["whole"]) == ("done", "all collections", False)
    assert task["result"]["findings"] == [
        {"collection": "closed", "text": f"closed/{id_} is only in the collection", "shape": f"closed/{id_}"}
    ]
    assert await code_of(operator, "POST", VERIFICATIONS.format(collection="none")) == (404, "not_tracked")
