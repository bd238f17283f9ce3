from __future__ import annotations

import asyncio
import hashlib
import json
import os
import secrets
from collections.abc import Iterable
from typing import Any

import pytest
from bson.int64 import Int64
from bson.timestamp import Timestamp
from pymongo.read_concern import ReadConcern

from eventsync.domain.events import TransactionPart
from eventsync.domain.ids import IdText
from eventsync.domain.positions import LogId, Seq
from eventsync.domain.predicates.keys import KEY_BYTES
from eventsync.domain.replay import Damaged
from eventsync.domain.routes import Routes
from eventsync.domain.shapes import Shape
from eventsync.domain.values.extended_json import same, to_json
from eventsync.domain.values.type_hints import type_hints_of
from eventsync.errors import TooLarge, Unavailable
from eventsync.stores.log import events
from eventsync.stores.log.event_parts import EventParts
from eventsync.stores.log.events import LogHead, NewEvent, encoded_row
from eventsync.stores.log.logs import Fenced
from eventsync.stores.log.stored_event import StoredEvent
from eventsync.stores.stores import Stores

LOG, OTHER = LogId("bbbb"), LogId("bbbc")
ORDERS, ONE = Shape("orders"), Shape("orders", IdText("1"))


def new(
    seq: int,
    collection: str = "orders",
    key: str = "1",
    *,
    version: int = 1,
    transaction: TransactionPart | None = None,
    pad: str = "",
) -> NewEvent:
    body = json.dumps({"seq": seq, "é": pad}, ensure_ascii=False).encode()
    event = StoredEvent(Seq(seq), collection, IdText(key), body, transaction)
    return NewEvent(event, version, f"82{seq:08X}", Timestamp(seq, 1))


async def fill(stores: Stores, events: Iterable[NewEvent], log: LogId = LOG) -> None:
    await stores.ensure_indexes()
    await stores.events.append(log, list(events))


async def read(stores: Stores, after: int, up_to: int, shape: Shape | None = None, *, batch: int = 1000) -> list[int]:
    events = stores.events.read(LOG, Seq(after), Seq(up_to), shape=shape, batch=batch)
    return [event.seq async for event in events]


async def for_clients(
    stores: Stores, after: int, up_to: int, shape: Shape = ORDERS, *, batch: int = 1000
) -> list[tuple[int, bytes, TransactionPart | None]]:
    event_batches = stores.events.event_batches(LOG, Seq(after), Seq(up_to), shape=shape, batch=batch)
    return [
        (seq, body, found.transactions.get(place))
        async for found in event_batches
        for place, (seq, body) in enumerate(zip(found.seqs, found.bodies, strict=True))
    ]


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 2, 3, 500, 1000, 3000])
async def test_reads_for_clients_and_other_reads_agree(stores: Stores, batch: int) -> None:
    count = 2100 if batch > 3 else 12
    transactions = {2: TransactionPart("s:1", 1, 2), 3: TransactionPart("s:1", 2, 2)}
    names = ["orders", "orders", "orders", "users"]
    given = [
        new(seq, names[seq % 4], str(seq % 3), transaction=transactions.get(seq), pad="é" * seq)
        for seq in range(1, count)
    ]
    body = b'{"text":"%b"}' % (b"x" * 5 * 1024 * 1024)
    packed = NewEvent(StoredEvent(Seq(count), "orders", IdText("1"), body, None), 1, "82AA", Timestamp(count, 1))
    await fill(stores, [*given, packed, large(count + 1, b"a"), new(count + 2)])
    await fill(stores, [new(1)], OTHER)
    for shape in (ORDERS, ONE):
        for after, up_to in ((0, count + 2), (2, count - 1), (count, count + 1), (count + 2, count + 2)):
            events = stores.events.read(LOG, Seq(after), Seq(up_to), shape=shape)
            expected = [(event.seq, event.body, event.transaction) async for event in events]
            assert await for_clients(stores, after, up_to, shape, batch=batch) == expected


async def test_an_event_is_read_as_it_was_appended(stores: Stores) -> None:
    transaction = TransactionPart("s:1", 1, 2)
    given = [
        new(1, transaction=transaction),
        new(2, transaction=TransactionPart("s:1", 2, 2)),
        new(3, "users", "a/b", pad="é\0😀"),
    ]
    await fill(stores, given)
    got = [event async for event in stores.events.read(LOG, Seq(0))]
    assert got == [item.event for item in given]
    assert [event.closes for event in got] == [False, True, True]


async def test_the_tail_is_the_newest_event_and_where_the_stream_goes_on(stores: Stores) -> None:
    assert await stores.events.tail(LOG) is None
    await fill(stores, [new(1), new(2, transaction=TransactionPart("s:1", 1, 3))])
    await fill(stores, [new(7)], OTHER)
    await fill(stores, [new(8)], LogId("aaaa"))
    assert await stores.events.tail(LOG) == LogHead(Seq(2), "8200000002", Timestamp(2, 1), TransactionPart("s:1", 1, 3))
    assert await stores.events.tail(LogId("zzzz")) is None


@pytest.mark.parametrize("is_ahead", [False, True])
async def test_a_taken_number_fences_and_keeps_the_prefix(stores: Stores, is_ahead: bool) -> None:
    await fill(stores, [new(1), new(2), new(4, pad="theirs")])
    ours = [new(3, pad="ours"), new(4, pad="ours"), new(5, pad="ours")]
    async with stores.events.connection() as connection:
        with pytest.raises(Fenced) as caught:
            await stores.events.append(LOG, encoded(ours) if is_ahead else ours, over=connection)
    assert caught.value.code == "fenced"
    kept = [json.loads(event.body) async for event in stores.events.read(LOG, Seq(0))]
    assert [(body["seq"], body["é"]) for body in kept] == [(1, ""), (2, ""), (3, "ours"), (4, "theirs")]


def encoded(events: Iterable[NewEvent], log: LogId = LOG) -> list[NewEvent]:
    return [event._replace(row=encoded_row(log, event)) for event in events]


@pytest.mark.parametrize("most", [1, 400, 8 * 1024 * 1024])
async def test_rows_that_were_encoded_ahead_are_the_same(
    stores: Stores, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    a, b = b"a" * KEY_BYTES, b"b" * KEY_BYTES
    given = [
        new(1, transaction=TransactionPart("s:1", 1, 2)),
        new(2, transaction=TransactionPart("s:1", 2, 2), pad="é\0😀"),
        new(3)._replace(type_hints=["/a=long", "/b=double"], revision=7, is_unrouted=True, activated=["orders"]),
        *(new(seq, key=str(seq)) for seq in range(4, 20)),
    ]
    routes = Routes((a, b), frozenset([a]), frozenset([b]), b'{"_id":1}')
    given.append(
        NewEvent(StoredEvent(Seq(20), "orders", IdText("1"), b"{}", None, routes), 1, "82AA", Timestamp(20, 1))
    )
    await fill(stores, given)
    monkeypatch.setattr(events, "_INSERTED_AT_ONCE", most)
    async with stores.events.connection() as connection:
        await stores.events.append(OTHER, encoded(given, OTHER), over=connection)
    rows = [row async for row in stores.log["events"].find(sort=[("_id", 1)])]
    assert len(rows) == 2 * len(given)
    for expected, row in zip(rows[: len(given)], rows[len(given) :], strict=True):
        assert list(row) == list(expected)
        assert row == expected | {"_id": {"l": OTHER, "n": expected["_id"]["n"]}}


async def test_a_large_event_is_not_encoded_ahead_and_those_beside_it_are_appended(stores: Stores) -> None:
    given = encoded([new(1), new(2, pad="x" * 2 * 1024 * 1024), new(3)])
    assert [event.row is None for event in given] == [False, True, False]
    async with stores.events.connection() as connection:
        await stores.events.append(LOG, given, over=connection)
    assert await read(stores, 0, 3) == [1, 2, 3]


async def test_logs_do_not_fence_each_other(stores: Stores) -> None:
    await fill(stores, [new(1)])
    await fill(stores, [new(1)], OTHER)
    assert await read(stores, 0, 1) == [1]


async def test_ranges_of_everything_of_a_collection_and_of_a_document(stores: Stores) -> None:
    await fill(stores, [new(n, "users" if n % 3 == 0 else "orders", str(n % 2)) for n in range(1, 13)])
    assert await read(stores, 0, 12) == list(range(1, 13))
    assert await read(stores, 3, 6) == [4, 5, 6]
    assert await read(stores, 6, 6) == []
    assert await read(stores, 12, 12) == []
    assert await read(stores, 3, 10, ORDERS) == [4, 5, 7, 8, 10]
    assert await read(stores, 3, 11, ONE) == [5, 7, 11]
    assert await read(stores, 0, 12, Shape("users", IdText("0"))) == [6, 12]
    assert await read(stores, 0, 12, Shape("nobody")) == []
    assert await read(stores, 0, 12, ORDERS, batch=2) == [1, 2, 4, 5, 7, 8, 10, 11]


async def test_numbers_beyond_32_bits(stores: Stores) -> None:
    first = 2**31 - 1
    await fill(stores, [new(first + n) for n in range(4)])
    assert await read(stores, first, first + 2) == [first + 1, first + 2]
    tail = await stores.events.tail(LOG)
    assert tail is not None
    assert tail.seq == first + 3


async def test_the_history_of_a_document(stores: Stores) -> None:
    versions = [1, 2, 2, 3, 1]  # a change from elsewhere keeps the version, and a document may be made again
    await fill(stores, [new(n, version=version) for n, version in enumerate(versions, 1)])
    await fill(stores, [new(6, key="2", version=9)])

    async def history(after_version: int, after: int = 0, up_to: int = 6, limit: int = 99) -> list[int]:
        events = await stores.events.of_document(
            LOG, ONE, after_version=after_version, after=Seq(after), up_to=Seq(up_to), limit=limit
        )
        return [event.seq for event in events]

    assert await history(0) == [1, 2, 3, 4, 5]
    assert await history(1) == [2, 3, 4]
    assert await history(0, after=2, limit=2) == [3, 4]
    assert await history(0, up_to=2) == [1, 2]
    assert await history(9) == []


async def test_a_document_is_found_by_the_index(stores: Stores) -> None:
    await fill(stores, [new(n, key=str(n)) for n in range(1, 200)])
    query = {"_id.l": LOG, "c": "orders", "i": "7", "_id.n": {"$gt": 0, "$lte": 999}}
    plan = await stores.log["events"].find(query, sort=[("_id.n", 1)]).explain()
    assert plan["executionStats"]["totalDocsExamined"] == 1


async def test_a_body_that_is_larger_than_a_document_may_be_is_stored_and_read(stores: Stores) -> None:
    pad = os.urandom(64 * 1024).hex() * 160
    await fill(stores, [new(1), new(2, pad=pad), new(3)])
    got = [event async for event in stores.events.read(LOG, Seq(0))]
    assert [event.seq for event in got] == [1, 2, 3]
    assert len(got[1].body) > 16 * 1024 * 1024
    assert got[1].body == new(2, pad=pad).event.body


def large(seq: int, seed: bytes) -> NewEvent:
    """An event that no MongoDB document can hold, compressed or not."""
    body = b"{%b}" % hashlib.shake_256(seed).digest(17 * 1024 * 1024)
    return NewEvent(StoredEvent(Seq(seq), "orders", IdText("1"), body), 1, f"82{seq:08X}", Timestamp(seq, 1))


async def test_a_body_that_does_not_fit_compressed_is_kept_in_parts(stores: Stores) -> None:
    await fill(stores, [new(1), large(2, b"a"), new(3)])
    got = [event async for event in stores.events.read(LOG, Seq(0))]
    found = await stores.events.of_document(LOG, ONE, after_version=0, after=Seq(1), up_to=Seq(2), limit=9)
    assert got[1] == found[0] == large(2, b"a").event
    rows = await stores.log["events"].find({}, {"b": 1}).to_list()
    assert [type(row["b"]) for row in rows] == [str, dict, str]
    assert await stores.events.tail(LOG) == LogHead(Seq(3), "8200000003", Timestamp(3, 1), None)


@pytest.mark.slow
async def test_many_marks_are_kept_in_parts_too(stores: Stores) -> None:
    body = b'{"seq":1,"collection":"orders","id":"1","op":"create","base":0,"version":1,"doc":%b}'
    document = {secrets.token_hex(8): Int64(n) for n in range(230_000)}
    event = StoredEvent(Seq(1), "orders", IdText("1"), body % to_json(document), None)
    await fill(stores, [NewEvent(event, 1, "82AA", Timestamp(1, 1), type_hints_of(document))])
    row = await stores.log["events"].find_one({})
    assert row is not None
    assert isinstance(row["w"], dict)
    changes = [item async for item in stores.history.reader.in_order(LOG, Shape("orders"), after=Seq(0), up_to=Seq(1))]
    assert same(changes[0].document, document)


@pytest.mark.slow
async def test_the_first_of_two_rows_wins_and_keeps_its_own_parts(stores: Stores) -> None:
    await fill(stores, [new(1)])
    await asyncio.gather(
        stores.events.append(LOG, [large(2, b"ours")]),
        stores.events.append(LOG, [large(2, b"theirs")]),
        return_exceptions=True,
    )
    with pytest.raises(Fenced):
        await stores.events.append(LOG, [large(2, b"late")])
    (kept,) = [event async for event in stores.events.read(LOG, Seq(1))]
    assert kept in (large(2, b"ours").event, large(2, b"theirs").event)
    assert await stores.log["event_parts"].count_documents({}) == 9
    assert await stores.events.sweep(LOG) == 6
    assert [event async for event in stores.events.read(LOG, Seq(1))] == [kept]
    assert await stores.events.sweep(LOG) == 0


async def test_the_parts_of_a_number_that_is_not_taken_are_left_alone(stores: Stores) -> None:
    """Their writer may be about to append the event: it, or one that wins the number, makes it plain whose they are."""
    parts = EventParts(stores.log)
    await parts.write(LOG, Seq(1), b"x" * 100)
    await parts.write(OTHER, Seq(1), b"x" * 100)
    assert await stores.events.sweep(LOG) == 0
    await fill(stores, [new(1)])
    assert await stores.events.sweep(LOG) == 1
    assert [row["_id"]["l"] async for row in stores.log["event_parts"].find({}, {"_id": 1})] == [OTHER]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"$unset": {"b.sha256": 1}}, "can't be read"),
        (None, "part 2 of event bbbb:1 is missing"),
        ({"$set": {"b.of": 2}}, "the parts of event bbbb:1 have another checksum"),
    ],
)
async def test_parts_that_are_not_what_was_written(stores: Stores, change: dict[str, Any] | None, said: str) -> None:
    await fill(stores, [large(1, b"a")])
    if change is None:
        await stores.log["event_parts"].delete_one({"_id.p": 2})
    else:
        await stores.log["events"].update_one({}, change)
    with pytest.raises(Damaged, match=said):
        await read(stores, 0, 1)
    with pytest.raises(Damaged, match=said):
        await anext(stores.history.reader.in_order(LOG, Shape("orders"), after=Seq(0), up_to=Seq(1)))
    with pytest.raises(Damaged, match=said):
        await for_clients(stores, 0, 1)


async def test_an_id_that_mongodb_cannot_hold_is_refused_and_keeps_the_prefix(stores: Stores) -> None:
    with pytest.raises(TooLarge):
        await fill(stores, [new(1), new(2, key="x" * 17 * 1024 * 1024), new(3)])
    found = [event.seq async for event in stores.events.read(LOG, Seq(0))]
    assert found in ([], [1])


async def test_a_read_fails_for_events_that_a_new_primary_does_not_show_yet(stores: Stores) -> None:
    """Its majority snapshot is for a moment older than what its predecessor has shown."""
    await fill(stores, [new(1), new(2)])
    for shape in (None, ORDERS, ONE):
        with pytest.raises(Unavailable, match="event bbbb:3 is not to be read yet"):
            await read(stores, 0, 3, shape)
        if shape is not None:
            with pytest.raises(Unavailable, match="event bbbb:3 is not to be read yet"):
                await for_clients(stores, 0, 3, shape)


@pytest.mark.parametrize("body", [None, 7, b"not packed", {"v": 1}])
async def test_a_row_that_nobody_has_written_like_that_is_named(stores: Stores, body: Any) -> None:
    await fill(stores, [new(1)])
    await stores.log["events"].update_one({}, {"$set": {"b": body}})
    with pytest.raises(Damaged, match="event bbbb:1"):
        await for_clients(stores, 0, 1)
    with pytest.raises(Damaged, match="event bbbb:1"):
        await read(stores, 0, 1)


async def test_no_cursor_is_left_open(stores: Stores) -> None:
    await fill(stores, [new(seq) for seq in range(1, 3001)])
    event_batches = stores.events.event_batches(LOG, Seq(0), Seq(3000), shape=ORDERS, batch=2000)
    assert len((await anext(event_batches)).seqs) == 2000
    await event_batches.aclose()
    idle = {"$currentOp": {"idleCursors": True, "allUsers": True}}
    admin = stores.data.client.admin.with_options(read_concern=ReadConcern("local"))
    cursors = await admin.aggregate([idle, {"$match": {"type": "idleCursor"}}])
    assert [found async for found in cursors if found["ns"].startswith(stores.log.name)] == []


async def test_a_past_read_does_not_vouch_for_later_events(stores: Stores) -> None:
    await fill(stores, [new(1), new(2)])
    await fill(stores, [new(1)], OTHER)
    assert await read(stores, 0, 2) == [1, 2]
    with pytest.raises(Unavailable, match="event bbbb:3 is not to be read yet"):
        await read(stores, 0, 3)
    with pytest.raises(Unavailable, match="event bbbc:2 is not to be read yet"):
        await anext(stores.events.read(OTHER, Seq(0), Seq(2)))
    await fill(stores, [new(3)])
    assert (await read(stores, 0, 3), await read(stores, 1, 2)) == ([1, 2, 3], [2])


async def test_reaches_compares_with_the_newest_event(stores: Stores) -> None:
    await fill(stores, [new(1), new(2)])
    assert [await stores.events.reaches(LOG, Seq(seq)) for seq in (1, 2, 3)] == [True, True, False]
    assert not await stores.events.reaches(LogId("cccc"), Seq(1))
