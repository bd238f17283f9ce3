from __future__ import annotations

import json
import os
from collections.abc import Iterable

import pytest
from bson.timestamp import Timestamp

from app.domain.event import Group
from app.domain.ids import IdText
from app.domain.position import LogId, Seq
from app.domain.shape import Shape
from app.errors import TooLarge
from app.stores.events import Fenced, NewEvent, StoredEvent, Tail
from app.stores.stores import Stores

LOG, OTHER = LogId("bbbb"), LogId("bbbc")
ORDERS, ONE = Shape("orders"), Shape("orders", IdText("1"))


def new(
    seq: int, collection: str = "orders", key: str = "1", *, version: int = 1, group: Group | None = None, pad: str = ""
) -> NewEvent:
    body = json.dumps({"seq": seq, "é": pad}, ensure_ascii=False).encode()
    event = StoredEvent(Seq(seq), collection, IdText(key), body, group)
    return NewEvent(event, version, f"82{seq:08X}", Timestamp(seq, 1))


async def fill(stores: Stores, events: Iterable[NewEvent], log: LogId = LOG) -> None:
    await stores.ensure_indexes()
    await stores.events.append(log, list(events))


async def read(stores: Stores, after: int, upto: int, shape: Shape | None = None, *, batch: int = 1000) -> list[int]:
    events = stores.events.read(LOG, Seq(after), Seq(upto), shape=shape, batch=batch)
    return [event.seq async for event in events]


async def test_an_event_is_read_as_it_was_appended(stores: Stores) -> None:
    group = Group("s:1", 1, 2)
    given = [new(1, group=group), new(2, group=Group("s:1", 2, 2)), new(3, "users", "a/b", pad="é\0😀")]
    await fill(stores, given)
    got = [event async for event in stores.events.read(LOG, Seq(0), Seq(9))]
    assert got == [item.event for item in given]
    assert [event.closes for event in got] == [False, True, True]


async def test_the_tail_is_the_newest_event_and_where_the_stream_goes_on(stores: Stores) -> None:
    assert await stores.events.tail(LOG) is None
    await fill(stores, [new(1), new(2, group=Group("s:1", 1, 3))])
    await fill(stores, [new(7)], OTHER)
    await fill(stores, [new(8)], LogId("aaaa"))
    assert await stores.events.tail(LOG) == Tail(Seq(2), "8200000002", Timestamp(2, 1), Group("s:1", 1, 3))
    assert await stores.events.tail(LogId("zzzz")) is None


async def test_a_taken_number_fences_and_keeps_the_prefix(stores: Stores) -> None:
    await fill(stores, [new(1), new(2), new(4, pad="theirs")])
    with pytest.raises(Fenced) as caught:
        await stores.events.append(LOG, [new(3, pad="ours"), new(4, pad="ours"), new(5, pad="ours")])
    assert caught.value.code == "fenced"
    kept = [json.loads(event.body) async for event in stores.events.read(LOG, Seq(0), Seq(9))]
    assert [(body["seq"], body["é"]) for body in kept] == [(1, ""), (2, ""), (3, "ours"), (4, "theirs")]


async def test_logs_do_not_fence_each_other(stores: Stores) -> None:
    await fill(stores, [new(1)])
    await fill(stores, [new(1)], OTHER)
    assert await read(stores, 0, 9) == [1]


async def test_ranges_of_everything_of_a_collection_and_of_a_document(stores: Stores) -> None:
    await fill(stores, [new(n, "users" if n % 3 == 0 else "orders", str(n % 2)) for n in range(1, 13)])
    assert await read(stores, 0, 2**62) == list(range(1, 13))
    assert await read(stores, 3, 6) == [4, 5, 6]
    assert await read(stores, 6, 6) == []
    assert await read(stores, 12, 99) == []
    assert await read(stores, 3, 10, ORDERS) == [4, 5, 7, 8, 10]
    assert await read(stores, 3, 11, ONE) == [5, 7, 11]
    assert await read(stores, 0, 99, Shape("users", IdText("0"))) == [6, 12]
    assert await read(stores, 0, 99, Shape("nobody")) == []
    assert await read(stores, 0, 99, ORDERS, batch=2) == [1, 2, 4, 5, 7, 8, 10, 11]


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

    async def history(after_version: int, after: int = 0, upto: int = 99, limit: int = 99) -> list[int]:
        events = await stores.events.of_document(
            LOG, ONE, after_version=after_version, after=Seq(after), upto=Seq(upto), limit=limit
        )
        return [event.seq for event in events]

    assert await history(0) == [1, 2, 3, 4, 5]
    assert await history(1) == [2, 3, 4]
    assert await history(0, after=2, limit=2) == [3, 4]
    assert await history(0, upto=2) == [1, 2]
    assert await history(9) == []


async def test_a_document_is_found_by_the_index(stores: Stores) -> None:
    await fill(stores, [new(n, key=str(n)) for n in range(1, 200)])
    query = {"_id.l": LOG, "c": "orders", "i": "7", "_id.n": {"$gt": 0, "$lte": 999}}
    plan = await stores.log["events"].find(query, sort=[("_id.n", 1)]).explain()
    assert plan["executionStats"]["totalDocsExamined"] == 1


async def test_a_body_that_is_larger_than_a_document_may_be_is_stored_and_read(stores: Stores) -> None:
    pad = os.urandom(64 * 1024).hex() * 160
    await fill(stores, [new(1), new(2, pad=pad), new(3)])
    got = [event async for event in stores.events.read(LOG, Seq(0), Seq(9))]
    assert [event.seq for event in got] == [1, 2, 3]
    assert len(got[1].body) > 16 * 1024 * 1024
    assert got[1].body == new(2, pad=pad).event.body


async def test_an_event_that_mongodb_cannot_hold_is_refused_and_keeps_the_prefix(stores: Stores) -> None:
    with pytest.raises(TooLarge):
        await fill(stores, [new(1), new(2, pad=os.urandom(17 * 1024 * 1024).hex()), new(3)])
    assert await read(stores, 0, 9) in ([], [1])
