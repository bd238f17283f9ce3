"""A log that a test writes itself, without a sequencer: for jobs that only count and copy what is there."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from bson.int64 import Int64

from eventsync.domain.events import TransactionPart
from eventsync.domain.ids import IdText
from eventsync.domain.positions import LogId, Seq
from eventsync.domain.predicates.definitions import Definition, define
from eventsync.domain.routes import Routes
from eventsync.domain.shapes import Shape
from eventsync.domain.views import Clause, Redactor, View
from eventsync.stores.log.event_batch import EventBatch
from eventsync.stores.log.stored_event import StoredEvent
from eventsync.stores.stores import Stores


def event(
    seq: int,
    collection: str = "orders",
    key: str = "1",
    transaction: TransactionPart | None = None,
    size: int = 12,
    routes: Routes | None = None,
) -> StoredEvent:
    body = b'{"seq":%d}' % seq
    return StoredEvent(Seq(seq), collection, IdText(key), body.ljust(size), transaction, routes)


MINE = define("mine", "orders", {"a": {"$in": "$a"}}, {"a": ["text"]})


def routed_shape(text: str, definition: Definition = MINE) -> Shape:
    """A declared shape, bound by a definition that is active since the beginning of the log."""
    shape = Shape.parse(text)
    assert shape.declared is not None
    return replace(shape, route=definition.bind_shape(shape.declared, revision=1))


def view_of(
    text: str, *clauses: Collection[bytes], redaction: Redactor | None = None, collection: str = "orders"
) -> View:
    """A view under conditions of these keys, whatever definitions make them."""
    made = tuple(Clause((), frozenset(keys)) for keys in clauses)
    return View.of(text, collection, made, redaction)


def seen_shape(text: str, *clauses: Collection[bytes], redaction: Redactor | None = None) -> Shape:
    """A collection or a document as somebody sees it."""
    shape = Shape.parse(text)
    return replace(shape, route=view_of(text, *clauses, redaction=redaction, collection=shape.name))


def transaction(first: int, members: Iterable[tuple[str, str]], *, name: str = "t") -> list[StoredEvent]:
    """The events of one transaction from `first` on; a member is (collection, id)."""
    listed = list(members)
    return [
        event(first + index, collection, key, TransactionPart(f"{name}{first}", index + 1, len(listed)))
        for index, (collection, key) in enumerate(listed)
    ]


def event_batch(events: Sequence[StoredEvent]) -> EventBatch:
    """The same events as they are sent on."""
    transactions = {place: item.transaction for place, item in enumerate(events) if item.transaction is not None}
    return EventBatch([item.seq for item in events], [item.body for item in events], transactions)


async def begun(stores: Stores, *names: str) -> LogId:
    """Begin a log in which these collections are active, with a checkpoint of seq 0 now."""
    await stores.ensure_indexes()
    for name in set(names) - set(await stores.data.list_collection_names()):
        await stores.data.create_collection(name)
    now = (await stores.data.command("ping"))["operationTime"]
    log = (await stores.logs.begin(await stores.logs.current(), cluster="c", reason="r", token="82AA", time=now)).id
    await stores.tracking.ask(names)
    await stores.tracking.activate(names, log, Seq(0))
    return log


async def append(stores: Stores, log: LogId, collection: str, count: int = 1, size: int = 1) -> Seq:
    """Append `count` events of a collection, of about `size` bytes each, and a checkpoint behind them."""
    tail = await stores.events.tail(log)
    first = (tail.seq if tail else 0) + 1
    now = (await stores.data.command("ping"))["operationTime"]
    row = {"t": "82AB", "s": now, "c": collection, "i": "int:1", "v": Int64(0), "b": f'{{"x":"{"x" * size}"}}'}
    await stores.log["events"].insert_many(
        [row | {"_id": {"l": log, "n": Int64(seq)}} for seq in range(first, first + count)]
    )
    return await checkpoint(stores, log, Seq(first + count - 1))


async def checkpoint(stores: Stores, log: LogId, seq: Seq) -> Seq:
    """Set the checkpoint: `seq` is the state of the collections now."""
    now = (await stores.data.command("ping"))["operationTime"]
    await stores.logs.checkpoint(log, seq, "82AB", now)
    return seq
