from __future__ import annotations

from collections.abc import AsyncIterator, Iterable

import pytest

from eventsync.concurrency.offload import inline
from eventsync.domain.events import place
from eventsync.domain.positions import Seq
from eventsync.domain.routes import Routes
from eventsync.stores.log.event_batch import EventBatch
from eventsync.stores.log.stored_event import StoredEvent
from eventsync.sync.live import pages
from eventsync.sync.live.pages import Page, PageLimit, page_of, pages_from, routed_pages
from support.logs_by_hand import event, event_batch, transaction, view_of

PLAIN = [event(seq) for seq in range(1, 6)]
MIXED = [event(1), *transaction(2, [("orders", "1")] * 3), event(5), *transaction(6, [("orders", "2")] * 2)]


async def stream(events: Iterable[StoredEvent], taken: list[int]) -> AsyncIterator[EventBatch]:
    for item in events:
        taken.append(item.seq)
        yield event_batch([item])


@pytest.mark.parametrize(
    ("events", "limit", "expected", "full"),
    [
        ([], PageLimit(1, 1), [], False),
        (PLAIN, PageLimit(9, 999), [1, 2, 3, 4, 5], False),
        (PLAIN, PageLimit(5, 999), [1, 2, 3, 4, 5], False),
        (PLAIN, PageLimit(4, 999), [1, 2, 3, 4], True),
        (PLAIN, PageLimit(9, 36), [1, 2, 3], True),
        (PLAIN, PageLimit(9, 35), [1, 2, 3], True),
        (PLAIN, PageLimit(9, 1), [1], True),
        (MIXED, PageLimit(1, 999), [1], True),
        (MIXED, PageLimit(2, 999), [1, 2, 3, 4], True),
        (MIXED, PageLimit(4, 999), [1, 2, 3, 4], True),
        (MIXED, PageLimit(6, 999), [1, 2, 3, 4, 5, 6, 7], False),
        (MIXED[1:], PageLimit(1, 1), [2, 3, 4], True),
        (transaction(1, [("a", "1")] * 2) + transaction(3, [("a", "1")] * 2), PageLimit(1, 1), [1, 2], True),
    ],
)
async def test_a_page_is_cut_by_size_and_never_inside_a_transaction(
    events: list[StoredEvent], limit: PageLimit, expected: list[int], full: bool
) -> None:
    page = page_of(events, limit)
    assert (page.seqs, page.full) == (expected, full)
    taken: list[int] = []
    assert await pages_from(stream(events, taken), limit) == [page]
    assert len(taken) <= len(expected) + 1, "it reads one event beyond the page at most"


@pytest.mark.parametrize("most", [1, 2, 3, 9])
@pytest.mark.parametrize("size", [1, 2, 3])
async def test_pages_follow_on_each_other_however_the_events_come(most: int, size: int) -> None:
    async def batches() -> AsyncIterator[EventBatch]:
        for start in range(0, len(MIXED), size):
            yield event_batch(MIXED[start : start + size])

    one_by_one, rest = list[Page](), MIXED
    while len(one_by_one) < most and (not one_by_one or one_by_one[-1].full):
        one_by_one.append(page_of(rest, PageLimit(2, 999)))
        rest = rest[len(one_by_one[-1].seqs) :]
    assert await pages_from(batches(), PageLimit(2, 999), most) == one_by_one


def test_a_page_names_its_size_and_end() -> None:
    page = page_of(PLAIN, PageLimit(2, 999))
    assert page.end == 2
    assert list(page.bodies) == [item.body for item in PLAIN[:2]]
    assert page_of([], PageLimit(2, 999)).end is None


SEEN, OTHER = bytes(16), b"x" * 16
VIEW = view_of("orders", [SEEN])
SPARSE = [
    event(1, routes=Routes((OTHER,))),
    event(2, routes=Routes((SEEN,))),
    *(event(seq, routes=Routes((OTHER,))) for seq in range(3, 8)),
    *(
        item._replace(
            body=place(b'"collection":"orders"', item.seq, item.transaction),
            routes=Routes((SEEN if item.seq in {8, 9} else OTHER,)),
        )
        for item in transaction(8, [("orders", "1")] * 6)
    ),
    *(event(seq, routes=Routes((OTHER,))) for seq in range(14, 18)),
    event(18, routes=Routes((SEEN,))),
    event(19, routes=Routes((OTHER,))),
]


async def listed(events: Iterable[StoredEvent]) -> AsyncIterator[StoredEvent]:
    for item in events:
        yield item


async def sparse_pages(after: int, most: int, limit: int = 2) -> list[Page]:
    rest = listed(item for item in SPARSE if item.seq > after)
    return await routed_pages(rest, VIEW, PageLimit(limit, 999), most, offload=inline())


async def test_a_page_ends_after_many_events_that_its_reader_does_not_see(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "MAX_UNSEEN", 4)
    found, ends, cursor = list[int](), list[int](), 0
    while not ends or found[-1] != 18:
        (page,) = await sparse_pages(cursor, 1)
        cursor = page.up_to(Seq(19))
        found += page.seqs
        ends.append(cursor)
        assert len(ends) < 10
    assert found == [2, 8, 9, 18]
    assert ends[:2] == [5, 13], "behind the fourth, but never inside a transaction"


@pytest.mark.parametrize("limit", [1, 2, 3])
@pytest.mark.parametrize("unseen", [1, 2, 3, 4, 5, 100])
async def test_pages_of_a_view_are_the_same_one_by_one_and_at_once(
    monkeypatch: pytest.MonkeyPatch, unseen: int, limit: int
) -> None:
    """Servers read another number of pages at a time, and a full page is the same on each."""
    monkeypatch.setattr(pages, "MAX_UNSEEN", unseen)
    for cursor in range(20):
        if 8 < cursor < 13:
            continue  # inside of the transaction
        together, one_by_one, after = await sparse_pages(cursor, 3, limit), list[Page](), cursor
        while len(one_by_one) < len(together):
            one_by_one += await sparse_pages(after, 1, limit)
            after = one_by_one[-1].up_to(Seq(19))
        assert together == one_by_one
