"""Large transactions, and changes that MongoDB makes by itself."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from app.settings import Settings
from app.stores.mongodb import Client
from app.stores.stores import Stores
from support.replay import assert_complete, eventually, tracked
from support.systems import running_worker


async def test_a_transaction_of_a_thousand_documents_is_one(client: Client, stores: Stores, settings: Settings) -> None:
    async with running_worker(settings):
        await stores.tracking.ask(["docs"])
        await tracked(stores, "docs")
        async with client.start_session() as session, await session.start_transaction():
            await stores.data["docs"].insert_many([{"_id": n, "n": 0} for n in range(1000)], session=session)
            await stores.data["docs"].update_many({"_id": {"$lt": 10}}, {"$inc": {"n": 1}}, session=session)
        replay = await assert_complete(stores, "docs")
    assert [event["txn"]["n"] for event in replay.events] == list(range(1, 1011))
    assert {event["txn"]["of"] for event in replay.events} == {1010}


async def test_a_transaction_over_16_mib_is_one(client: Client, stores: Stores, settings: Settings) -> None:
    async with running_worker(settings):
        await stores.tracking.ask(["docs"])
        await tracked(stores, "docs")
        async with client.start_session() as session, await session.start_transaction():
            for number in range(4):
                await stores.data["docs"].insert_one({"_id": number, "a": "x" * 6_000_000}, session=session)
        replay = await assert_complete(stores, "docs")
    assert [(event["txn"]["n"], event["txn"]["of"]) for event in replay.events] == [(n, 4) for n in range(1, 5)]


async def test_what_expires_is_deleted(client: Client, stores: Stores, settings: Settings) -> None:
    found = await client["admin"].command({"getParameter": 1, "ttlMonitorSleepSecs": 1})
    if found["ttlMonitorSleepSecs"] > 5:
        pytest.skip("this MongoDB looks for expired documents once a minute only")
    async with running_worker(settings):
        await stores.tracking.ask(["docs"])
        await tracked(stores, "docs")
        await stores.data["docs"].insert_many([{"_id": 1, "until": datetime(2020, 1, 1, tzinfo=UTC)}, {"_id": 2}])
        await stores.data["docs"].create_index("until", expireAfterSeconds=0)

        async def expired() -> bool | None:
            return None if await stores.data["docs"].find_one({"_id": 1}) else True

        await eventually(stores, "heads", expired)
        replay = await assert_complete(stores, "docs")
    assert [(event["op"], event["id"]) for event in replay.events][-1] == ("delete", "int:1")
    assert replay.events[-1]["external"]
