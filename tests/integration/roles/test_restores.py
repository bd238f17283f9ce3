"""Restores by users that may not make or remove collections."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from bson.timestamp import Timestamp

from eventsync.domain.positions import LogId, Position, Seq
from eventsync.mongodb.client import connect
from eventsync.mongodb.errors import Barred
from eventsync.stores.history.restore import Restore, RestoreSource
from eventsync.stores.stores import Stores
from integration.roles.conftest import (
    Admin,
    as_user,
    only,
)
from support.systems import Processes
from support.waiting import eventually, patience

EXPIRED = datetime(2020, 1, 1, tzinfo=UTC)


def broken_off(admin: Admin, *names: str) -> None:
    """Record restores that have died, each with its unfinished collection if its name begins with `built`."""
    for name in names:
        if name.startswith("built"):
            admin["shop"][name].insert_one({"_id": 1})
        admin["shop_eventsync"]["restores"].insert_one({"_id": name, "into": "copy", "until": EXPIRED})


async def test_worker_removes_what_restores_have_left(admin: Admin, port: int) -> None:
    broken_off(admin, "bare.restoring-1", "built.restoring-2")
    settings = as_user(admin, port, "worker", ["eventsync-worker"])
    async with connect(settings, "test") as client:
        assert await Restore(Stores.of(client, settings)).unfinished() == []
    assert admin["shop"].list_collection_names() == []


async def test_restore_that_can_t_be_removed_keeps_no_other_one_from_being_removed(
    admin: Admin, port: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker's user needs no `dropCollection`: the job does not fail without it, and the log says it once."""
    broken_off(admin, "bare.restoring-1", "built.restoring-2", "last.restoring-3")
    settings = as_user(admin, port, "worker", [only(admin, "worker", without=("shop", "dropCollection"))])
    async with connect(settings, "test") as client:
        for _ in range(2):
            assert await Restore(Stores.of(client, settings)).unfinished() == ["built.restoring-2"]
    (line,) = [record.getMessage() for record in caplog.records if "restoring" in record.getMessage()]
    assert "built.restoring-2 can't be removed" in line
    assert "it needs dropCollection on shop" in line


async def test_restore_that_is_refused_leaves_no_record(admin: Admin, port: int) -> None:
    settings = as_user(admin, port, "less", [only(admin, "operate", without=("shop", "insert", "createCollection"))])
    async with connect(settings, "test") as client:
        stores = Stores.of(client, settings)
        log = LogId("k3f9ab2c")
        snapshot = await stores.snapshots.stored.write(log, "orders", Seq(0), Timestamp(1, 1), nothing())
        with pytest.raises(Barred, match="the MongoDB user of this server lacks the privilege"):
            await Restore(stores).run(RestoreSource(Position(log, Seq(0)), snapshot), "copy")
    assert admin["shop_eventsync"]["restores"].count_documents({}) == 0


async def nothing() -> AsyncIterator[tuple[int, Any]]:
    """The rows of an empty collection."""
    none: list[tuple[int, Any]] = []
    for row in none:
        yield row


async def test_dashboard_restores_with_a_role_of_its_own(running: Processes, admin: Admin) -> None:
    async with httpx.AsyncClient(base_url=running.url, timeout=patience(20)) as client:
        (await client.put("/v1/collections/orders/documents/a", json={"n": 1})).raise_for_status()
        log = (await client.get("/readyz")).json()["position"].split(":")[0]
        restores, body = "/v1/admin/collections/orders/restores", {"into": "then", "position": f"{log}:1"}

        async def begun() -> httpx.Response | None:
            answer = await client.post(restores, json=body)
            return answer if answer.status_code != 410 else None  # the event is not there yet

        refused = await eventually(begun, 20)
        assert (refused.status_code, refused.json()["code"]) == (403, "forbidden"), refused.text
        assert "lacks dropCollection on shop, renameCollectionSameDB on shop" in refused.json()["detail"]
        assert admin["shop_eventsync"]["restores"].count_documents({}) == 0
        admin.admin.command("grantRolesToUser", "serve", roles=["eventsync-restore"])
        assert (await client.post(restores, json=body)).status_code == 202

        async def ended() -> dict[str, Any] | None:
            (task,) = (await client.get("/v1/admin/tasks")).json()["tasks"]
            return task if task["state"] != "running" else None

        task = await eventually(ended, 30)
        assert (task["state"], task["reason"]) == ("done", None)
    assert admin["shop"]["then"].count_documents({}) == 1
