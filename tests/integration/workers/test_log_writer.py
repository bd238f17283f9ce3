from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from bson.raw_bson import RawBSONDocument
from bson.timestamp import Timestamp

from eventsync.domain.events import Event, TransactionPart
from eventsync.domain.ids import IdText
from eventsync.domain.positions import LogId, Seq
from eventsync.mongodb.change_stream import Batch
from eventsync.stores.log.events import LogHead
from eventsync.stores.log.stored_event import StoredEvent
from eventsync.stores.stores import Stores
from eventsync_workers.sequencing.converter import encode_event
from eventsync_workers.sequencing.log_writer import LogWriter
from eventsync_workers.sequencing.missing_images import ImageReader
from support.changes import AT, SESSION, change, inserted, token

LOG = LogId("k3f9ab2c")
TXN = f"{SESSION.hex}:1"


class Written:
    """A writer on the test's own log, and what it has appended there."""

    def __init__(self, stores: Stores, tail: LogHead | None = None, *, time: int = 0) -> None:
        self._events = stores.events
        self._from = tail.seq if tail else Seq(0)
        # The changes here carry their states: the reader is not asked for any.
        self.log = LogWriter(LOG, stores.events, ImageReader(stores.snapshots.live), tail, Timestamp(time, 1))

    async def append(self, transactions: Sequence[Sequence[RawBSONDocument]], read: Batch | None = None) -> int:
        """Convert and append; returns the number of events."""
        numbered = await self.log.convert(transactions, read)
        await self.log.append([numbered])
        return len(numbered.events)

    async def events(self) -> list[StoredEvent]:
        return [event async for event in self._events.read(LOG, self._from)]

    async def marks(self) -> list[tuple[int, str, TransactionPart | None]]:
        return [(event.seq, event.id, event.transaction) for event in await self.events()]


def tail(seq: int, transaction: TransactionPart | None = None) -> LogHead:
    return LogHead(Seq(seq), token(1), Timestamp(1, 1), transaction)


def api_delete(key: int, **options: Any) -> list[RawBSONDocument]:
    live = {"_id": key, "_sync": {"v": 1, "op": "a", "by": "b"}}
    marked = {"_id": key, "_sync": {"v": 2, "op": "a", "by": "b", "deleted": True}}
    return [
        change("update", key=key, fullDocumentBeforeChange=live, fullDocument=marked, **options),
        change("delete", key=key, fullDocumentBeforeChange=marked, **options),
    ]


async def test_events_are_numbered_on_from_the_tail(stores: Stores) -> None:
    written = Written(stores, tail(7))
    log = written.log
    assert await written.append([[inserted(1)], [inserted(2)]]) == 2
    assert await written.append([[inserted(3)]]) == 1
    assert [seq for seq, _, _ in await written.marks()] == [8, 9, 10]
    assert log.seq == 10
    assert [json.loads(event.body)["seq"] for event in await written.events()] == [8, 9, 10]
    found = await stores.events.tail(LOG)
    assert found is not None
    assert (found.seq, found.token, found.time) == (10, token(1), Timestamp(1, 1))


async def test_the_first_event_of_a_log_is_number_1(stores: Stores) -> None:
    written = Written(stores)
    await written.append([[inserted(1)]])
    assert await written.marks() == [(1, "int:1", None)]


async def test_the_events_of_a_transaction_are_marked(stores: Stores) -> None:
    written = Written(stores)
    await written.append([[inserted(1, txn=1), inserted(2, txn=1), inserted(3, txn=1)], [inserted(4)]])
    assert [mark for _, _, mark in await written.marks()] == [
        TransactionPart(TXN, 1, 3),
        TransactionPart(TXN, 2, 3),
        TransactionPart(TXN, 3, 3),
        None,
    ]
    assert json.loads((await written.events())[1].body)["txn"] == {"id": TXN, "n": 2, "of": 3}


async def test_a_transaction_with_one_event_needs_no_mark(stores: Stores) -> None:
    written = Written(stores)
    await written.append([[inserted(1, txn=1)], api_delete(2, txn=2)])
    assert [mark for _, _, mark in await written.marks()] == [None, None]
    assert [json.loads(event.body)["op"] for event in await written.events()] == ["create", "delete"]


async def test_the_mark_of_an_api_delete_takes_no_number_in_a_transaction(stores: Stores) -> None:
    written = Written(stores)
    await written.append([[inserted(1, txn=1), *api_delete(2, txn=1), inserted(3, txn=1)]])
    assert [mark for _, _, mark in await written.marks()] == [
        TransactionPart(TXN, 1, 3),
        TransactionPart(TXN, 2, 3),
        TransactionPart(TXN, 3, 3),
    ]


async def test_a_transaction_without_events_appends_nothing(stores: Stores) -> None:
    written = Written(stores, tail(3))
    assert await written.append([api_delete(2)[:1]]) == 0
    assert (await written.events(), written.log.seq) == ([], 3)


async def test_the_rest_of_a_half_appended_transaction_continues_its_count(stores: Stores) -> None:
    written = Written(stores, tail(2, TransactionPart(TXN, 2, 4)))
    await written.append([[inserted(3, txn=1), inserted(4, txn=1)]])
    await written.append([[inserted(5, txn=2), inserted(6, txn=2)]])
    other = f"{SESSION.hex}:2"
    assert await written.marks() == [
        (3, "int:3", TransactionPart(TXN, 3, 4)),
        (4, "int:4", TransactionPart(TXN, 4, 4)),
        (5, "int:5", TransactionPart(other, 1, 2)),
        (6, "int:6", TransactionPart(other, 2, 2)),
    ]


async def test_a_single_rest_is_marked_too(stores: Stores) -> None:
    written = Written(stores, tail(1, TransactionPart(TXN, 1, 2)))
    await written.append([[inserted(2, txn=1)]])
    assert [mark for _, _, mark in await written.marks()] == [TransactionPart(TXN, 2, 2)]


async def test_a_whole_transaction_at_the_tail_is_not_continued(stores: Stores) -> None:
    written = Written(stores, tail(2, TransactionPart(TXN, 2, 2)))
    await written.append([[inserted(3, txn=1)]])
    assert [mark for _, _, mark in await written.marks()] == [None]


async def test_a_later_change_gives_a_checkpoint(stores: Stores) -> None:
    written = Written(stores)
    await written.append([[inserted(1, time=5)], [inserted(2, time=5)]])
    assert written.log.checkpoint is None, "more may follow at the same time"
    await written.append([[inserted(3, time=6)]])
    assert written.log.checkpoint == (2, token(5), Timestamp(5, 1))
    await written.append([[inserted(4, time=7)], [inserted(5, time=8)]])
    assert written.log.checkpoint == (4, token(7), Timestamp(7, 1))


async def test_a_checkpoint_holds_only_when_its_events_are_appended(stores: Stores) -> None:
    written = Written(stores)
    batch = Batch([], f"82{9:08X}{1:08X}2B")
    first = await written.log.convert([[inserted(1, time=5)], [inserted(2, time=6)]])
    second = await written.log.convert([[inserted(3, time=7)]], batch)
    assert (written.log.checkpoint, written.log.seq) == (None, 0)
    await written.log.append([first])
    assert (written.log.checkpoint, written.log.seq) == ((1, token(5), Timestamp(5, 1)), 2)
    await written.log.append([second])
    assert (written.log.checkpoint, written.log.seq) == ((3, batch.token, Timestamp(9, 1)), 3)
    assert [seq for seq, _, _ in await written.marks()] == [1, 2, 3]


async def test_numbered_events_appended_together_are_dense(stores: Stores) -> None:
    written = Written(stores, tail(7))
    portions = [await written.log.convert([[inserted(key, time=key)]]) for key in (1, 2, 3)]
    await written.log.append(portions)
    assert [(seq, key) for seq, key, _ in await written.marks()] == [(8, "int:1"), (9, "int:2"), (10, "int:3")]
    assert written.log.checkpoint == (9, token(2), Timestamp(2, 1))


async def test_repair_events_replace_converted_events_that_are_not_appended(stores: Stores) -> None:
    written = Written(stores)
    await written.append([[inserted(1, time=5)]])
    await written.log.convert([[inserted(2, time=6)]])
    found = Event("orders", IdText("int:9"), "delete", 0, 0, AT)
    await written.log.append_repair([encode_event(found)], token(7), Timestamp(7, 1))
    await written.append([[inserted(3, time=8)]])
    assert [(seq, key) for seq, key, _ in await written.marks()] == [(1, "int:1"), (2, "int:9"), (3, "int:3")]


async def test_a_stream_that_was_read_past_the_last_change_settles(stores: Stores) -> None:
    written = Written(stores)
    await written.append([[inserted(1, time=5)]], Batch([], f"82{5:08X}{1:08X}2B"))
    assert written.log.checkpoint is None
    await written.append([], Batch([], f"82{5:08X}{2:08X}2B"))
    assert written.log.checkpoint == (1, f"82{5:08X}{2:08X}2B", Timestamp(5, 2))


async def test_a_stream_at_the_resume_point_does_not_settle(stores: Stores) -> None:
    written = Written(stores, tail(4), time=5)
    await written.append([], Batch([], f"82{5:08X}{1:08X}2B"))
    assert written.log.checkpoint is None
