"""Searches of the log find what is there, and look at a bounded number of events."""

from __future__ import annotations

import sys

import pytest

from eventsync.domain.positions import LogId, Seq
from eventsync.domain.shapes import Shape
from eventsync.stores.history import log_search
from eventsync.stores.history.log_search import FoundEvents, LogSearch, Wanted
from eventsync.stores.stores import Stores
from support.logs_by_hand import append, begun

DOCUMENT = Shape.parse("docs/int:1")


async def search(stores: Stores, log: LogId, wanted: Wanted, up_to: Seq, limit: int = 10) -> FoundEvents:
    return await LogSearch(stores.events).newest(
        log, wanted, after=Seq(0), up_to=up_to, limit=limit, max_bytes=sys.maxsize
    )


async def test_few_events_of_a_document_are_found_at_once(stores: Stores) -> None:
    log = await begun(stores, "docs", "other")
    head = Seq(0)
    for _ in range(3):
        await append(stores, log, "docs", 1)
        head = await append(stores, log, "other", 3000)
    found = await search(stores, log, Wanted(DOCUMENT), head)
    assert ([event.seq for event in found.events], found.reached) == ([6003, 3002, 1], 0)


async def test_a_document_with_many_events_is_searched_in_parts(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where they are far from the head, so that a span has many of them."""
    monkeypatch.setattr(log_search, "_IN_SPAN", 1500)
    monkeypatch.setattr(log_search, "_MAX_SPANS", 4)
    log = await begun(stores, "docs", "other")
    await append(stores, log, "docs", 8000)
    newest = await search(stores, log, Wanted(DOCUMENT, by="nobody"), Seq(8000))
    assert (newest.events, newest.reached) == ([], 4000)
    head = await append(stores, log, "other", 5000)
    found = await search(stores, log, Wanted(DOCUMENT), head, limit=3)
    assert [event.seq for event in found.events] == [8000, 7999, 7998]
    reached, searches = head, 0
    while reached > 0:
        found = await search(stores, log, Wanted(DOCUMENT, by="nobody"), reached)
        assert found.reached < reached
        reached, searches = found.reached, searches + 1
    assert searches == 3
