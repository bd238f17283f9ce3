from __future__ import annotations

from collections.abc import AsyncIterator

from hypothesis import given
from hypothesis import strategies as st

from eventsync.stores.log.event_batch import EventBatch
from eventsync.stores.log.stored_event import StoredEvent
from eventsync.sync.live.pages import PageLimit, page_of, pages_from
from support.logs_by_hand import event, event_batch, transaction

RUNS = st.lists(st.tuples(st.integers(1, 4), st.integers(11, 40)), max_size=12)


def _events(runs: list[tuple[int, int]]) -> list[StoredEvent]:
    events: list[StoredEvent] = []
    for length, size in runs:
        first = len(events) + 1
        events += [event(first, size=size)] if length == 1 else transaction(first, [("orders", "1")] * length)
    return events


@given(RUNS, st.integers(1, 6), st.integers(1, 100))
def test_pages_after_each_other_are_the_whole_and_each_is_as_full_as_it_may_be(
    runs: list[tuple[int, int]], most: int, size: int
) -> None:
    events, limit = _events(runs), PageLimit(most, size)
    rest = events
    while rest:
        page = page_of(rest, limit)
        taken, rest = rest[: len(page.seqs)], rest[len(page.seqs) :]
        assert taken, "every page moves on"
        assert page.seqs == [item.seq for item in taken]
        assert page.bodies == [item.body for item in taken]
        assert page.full == bool(rest)
        # Without its last transaction it would not have been full.
        last = taken[-1].transaction
        before = [item for item in taken if last is None or item.transaction is None or item.transaction.id != last.id]
        before = before if last is not None else before[:-1]
        assert len(before) < most
        assert sum(len(item.body) for item in before) < size
        assert taken[-1].closes


@given(RUNS, st.integers(1, 6), st.integers(1, 100), st.integers(1, 5), st.integers(1, 5))
async def test_forwarded_pages_are_cut_at_the_same_places(
    runs: list[tuple[int, int]], most: int, size: int, together: int, pages: int
) -> None:
    async def event_batches() -> AsyncIterator[EventBatch]:
        for start in range(0, len(events), together):
            yield event_batch(events[start : start + together])

    events, limit = _events(runs), PageLimit(most, size)
    rest, expected = events, [page_of(events, limit)]
    while expected[-1].full and len(expected) < pages:
        rest = rest[len(expected[-1].seqs) :]
        expected.append(page_of(rest, limit))
    assert await pages_from(event_batches(), limit, pages) == expected


@given(RUNS, st.integers(1, 6), st.integers(0, 20))
def test_a_full_page_is_cut_at_the_same_place_whatever_follows(
    runs: list[tuple[int, int]], most: int, cut: int
) -> None:
    events, limit = _events(runs), PageLimit(most, 10_000)
    page = page_of(events, limit)
    shorter = page_of(events[: len(page.seqs) + cut], limit)
    if shorter.full:
        assert shorter == page
