"""Cutting a run of events into frames and pages of bounded size, never inside a transaction."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable
from dataclasses import dataclass

from app.domain.position import Seq
from app.stores.stored_event import StoredEvent


@dataclass(frozen=True, slots=True)
class PageLimit:
    """A page is full when it has this many events or bytes. One transaction may exceed either: it is never split."""

    events: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Page:
    """Some events in order. `full`: more follow; the cut was made by size, and is made at the same place every time."""

    events: tuple[StoredEvent, ...]
    full: bool

    @property
    def bodies(self) -> Iterable[bytes]:
        return (event.body for event in self.events)

    @property
    def end(self) -> Seq | None:
        """The last event's seq."""
        return self.events[-1].seq if self.events else None

    def upto(self, head: Seq) -> Seq:
        """Up to where it says everything, having been made of all events up to `head`."""
        return self.end if self.full and self.end is not None else head


class _Builder:
    """Takes events in order until the page is full."""

    def __init__(self, limit: PageLimit) -> None:
        self._limit = limit
        self._events: list[StoredEvent] = []
        self._bytes = 0
        self._is_full = False

    def take(self, event: StoredEvent) -> bool:
        """Add an event; False, and not added, when the page is full and `event` begins the next one."""
        if self._is_full and not _together(self._events[-1], event):
            return False
        self._events.append(event)
        self._bytes += len(event.body)
        self._is_full = len(self._events) >= self._limit.events or self._bytes >= self._limit.bytes
        return True

    def page(self, *, full: bool) -> Page:
        return Page(tuple(self._events), full)


def _together(one: StoredEvent, other: StoredEvent) -> bool:
    """Whether two neighbours are of the same transaction."""
    return one.group is not None and other.group is not None and one.group.id == other.group.id


def page_of(events: Iterable[StoredEvent], limit: PageLimit) -> Page:
    """The first page of `events`."""
    builder = _Builder(limit)
    return builder.page(full=not all(map(builder.take, events)))


async def pages_from(batches: AsyncIterable[Iterable[StoredEvent]], limit: PageLimit, most: int = 1) -> list[Page]:
    """The first pages of some events, at most so many, reading no batch further than that needs; one at least."""
    pages: list[Page] = []
    builder = _Builder(limit)
    async for batch in batches:
        for event in batch:
            if not builder.take(event):
                pages.append(builder.page(full=True))
                if len(pages) == most:
                    return pages
                builder = _Builder(limit)
                builder.take(event)
    return [*pages, builder.page(full=False)]
