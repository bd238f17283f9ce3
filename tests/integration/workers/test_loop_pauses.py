"""No change and no collection holds up a worker's event loop, which renews its leases."""

from __future__ import annotations

import secrets
from functools import partial
from typing import Any

import bson
import pytest
from bson.raw_bson import RawBSONDocument

from eventsync.domain.encoded_state import head_of
from eventsync.domain.ids import IdText
from eventsync.domain.positions import LogId
from eventsync.domain.stamp import Stamp
from eventsync.settings import Settings
from eventsync.stores.stores import Stores
from support.documents import joined
from support.histories import based
from support.loops import Loop
from support.replay import Replay, began, caught_up, current_log, replayed
from support.systems import running_worker

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024


def document(key: int, size: int) -> RawBSONDocument:
    """Return a document of about `size` bytes, of the values that are most work for their bytes."""
    lists: list[Any] = [[]] * (size // 13)  # an item: its type, six digits and a zero, and an empty list
    return RawBSONDocument(bson.encode({"_id": key, "x": lists}))


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"offload_timeout": 600.0, "collections": ("docs",)})


@pytest.mark.slow
async def test_no_change_holds_up_the_loop(stores: Stores, settings: Settings) -> None:
    loop = Loop(lambda: running_worker(settings), waited_for=False)
    async with loop.running():
        log = await began(stores, "docs")
        await based(stores, log, "docs")
        for cases in (_of_a_document, _of_a_doubled_field, _of_a_text, _of_transactions):
            await loop.measured(partial(cases, loop, stores, log))
    loop.assert_short()


async def _of_a_document(loop: Loop[None], stores: Stores, log: LogId) -> None:
    docs, inserted, before = stores.data["docs"], document(1, 15 * MIB), await stores.events.head(log)
    async with loop.during("a document of 15 MiB inserted"):
        await docs.insert_one(inserted)
        await caught_up(stores)
    async with loop.during("a field of it changed"):
        await docs.update_one({"_id": 1}, {"$set": {"n": 1}})
        await caught_up(stores)
    async with loop.during("replaced"):
        await docs.replace_one({"_id": 1}, document(1, 14 * MIB))
        await caught_up(stores)
    async with loop.during("all of it changed"):
        await docs.update_one({"_id": 1}, [{"$set": {"y": "$x"}}, {"$unset": "x"}])
        await caught_up(stores)
    async with loop.during("deleted"):
        await docs.delete_one({"_id": 1})
        await caught_up(stores)
    await docs.insert_one(inserted)
    async with loop.during("deleted by the API"):
        stamp = Stamp(1, "op", "by", deleted=True).stored()
        async with docs.database.client.start_session() as session, await session.start_transaction():
            await docs.update_one({"_id": 1}, {"$set": {"_sync": stamp}}, session=session)
            await docs.delete_one({"_id": 1}, session=session)
        await caught_up(stores)
    events = (await replayed(stores, log, Replay(seq=before))).events
    assert [event["op"] for event in events] == [
        "create",
        "replace",
        "replace",
        "replace",
        "delete",
        "create",
        "delete",
    ]
    assert (events[6]["base"], events[6]["version"], events[6].get("op_id")) == (0, 1, "op")


async def _of_a_doubled_field(loop: Loop[None], stores: Stores, log: LogId) -> None:
    docs, before = stores.data["docs"], await stores.events.head(log)
    await docs.insert_one(joined({"_id": 2, "note": 1}, {"note": 2, "x": [[]] * MIB}))
    await caught_up(stores)
    async with loop.during("a field of a document of 14 MiB changed that stands twice"):
        await docs.update_one({"_id": 2}, {"$set": {"note": 3}})
        await caught_up(stores)
    await docs.delete_one({"_id": 2})
    await caught_up(stores)
    events = [event async for event in stores.events.read(log, before)]
    assert [head_of(event.body)[0] for event in events] == ["create", "replace", "delete"]


async def _of_a_text(loop: Loop[None], stores: Stores, log: LogId) -> None:
    """Control characters have six times as many bytes of JSON; random text can't be compressed."""
    docs, before = stores.data["docs"], await stores.events.head(log)
    texts = {"control characters": "\1" * (15 * MIB), "random text": secrets.token_hex(15 * MIB // 2)}
    for kind, text in texts.items():
        async with loop.during(f"a text of 15 MiB inserted: {kind}"):
            await docs.insert_one({"_id": kind, "t": text})
            await caught_up(stores)
        async with loop.during(f"a field beside it changed: {kind}"):
            await docs.update_one({"_id": kind}, {"$set": {"n": 1}})
            await caught_up(stores)
        async with loop.during(f"the text changed: {kind}"):
            await docs.update_one({"_id": kind}, [{"$set": {"t": {"$concat": ["$t", "x"]}}}])
            await caught_up(stores)
        await docs.delete_one({"_id": kind})
        await caught_up(stores)
    assert await stores.events.head(log) == before + 8


async def _of_transactions(loop: Loop[None], stores: Stores, log: LogId) -> None:
    docs, before = stores.data["docs"], await stores.events.head(log)
    async with loop.during("a transaction of 1,000 documents"):
        async with docs.database.client.start_session() as session, await session.start_transaction():
            await docs.insert_many([document(10 + n, 14_000) for n in range(1000)], session=session)
        await caught_up(stores)
    async with loop.during("a transaction that changes them"):
        async with docs.database.client.start_session() as session, await session.start_transaction():
            await docs.update_many({}, {"$set": {"n": 1}}, session=session)
        await caught_up(stores)
    async with loop.during("they are deleted, one by one"):
        await docs.delete_many({})
        await caught_up(stores)
    assert await stores.events.head(log) == before + 3000


@pytest.mark.slow
async def test_no_base_and_no_repair_holds_up_the_loop(stores: Stores, settings: Settings) -> None:
    docs = stores.data["docs"]
    for key in range(3):
        await docs.insert_one(document(key, 10 * MIB))
    await docs.insert_one({"_id": 4, "t": "\1" * (15 * MIB)})
    await docs.insert_many([document(10 + n, 14_000) for n in range(1000)])
    loop = Loop(lambda: running_worker(settings), waited_for=False)
    async with loop.running():
        log = await began(stores, "docs")
        await loop.measured(partial(_of_a_base, loop, stores, log))
    await loop.measured(partial(_of_a_repair, loop, stores, settings))
    loop.assert_short()


async def _of_a_base(loop: Loop[None], stores: Stores, log: LogId) -> None:
    for known in await stores.snapshots.stored.listing(log):
        await stores.snapshots.stored.remove(known.id)
    async with loop.during("the base of a collection of several large and many small documents"):
        made = await based(stores, log, "docs")
    assert made.documents == 1004


async def _of_a_repair(loop: Loop[None], stores: Stores, settings: Settings) -> None:
    """Leave one large document as it is, change one, replace one by a small one, add one; change half of the others."""
    docs, log = stores.data["docs"], await current_log(stores)
    await docs.replace_one({"_id": 2}, document(2, 10 * MIB), upsert=True)
    await docs.delete_one({"_id": 3})
    async with running_worker(settings):
        await caught_up(stores)
    before = await stores.events.head(log)
    await docs.update_many({"_id": {"$in": [1, 4]}}, {"$inc": {"n": 1}})
    await docs.replace_one({"_id": 2}, {"n": 1})
    await docs.insert_one(document(3, 10 * MIB))
    await docs.update_many({"_id": {"$gte": 510}}, {"$inc": {"n": 1}})
    await stores.log["heads"].update_one({"_id": log}, {"$set": {"repair": "it was broken off"}})
    async with loop.during("a repair of several large and many small documents"), loop.running():
        await caught_up(stores)
    events = [event async for event in stores.events.read(log, before)]
    ops = {event.id: head_of(event.body)[0] for event in events}
    assert len(events) == len(ops) == 504
    assert [ops[IdText(f"int:{key}")] for key in (1, 2, 3, 4, 510)] == [
        *("replace", "replace", "create", "replace", "replace")
    ]
    assert all(event.body.endswith(b'"external":true}') for event in events)
