"""Stored events made by hand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from eventsync.domain.events import TransactionPart
from eventsync.domain.ids import IdText
from eventsync.domain.positions import Seq
from eventsync.stores.log.event_batch import EventBatch
from eventsync.stores.log.stored_event import StoredEvent


def event(
    seq: int,
    collection: str = "orders",
    key: str = "1",
    transaction: TransactionPart | None = None,
    size: int = 12,
) -> StoredEvent:
    body = b'{"seq":%d}' % seq
    return StoredEvent(Seq(seq), collection, IdText(key), body.ljust(size), transaction)


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
