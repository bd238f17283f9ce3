from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from app.stores.stored_event import StoredEvent
from app.sync.pages import PageLimit, page_of
from support.logged import event, transaction

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
    rest, seen = events, list[StoredEvent]()
    while rest:
        page = page_of(rest, limit)
        assert page.events, "every page moves on"
        assert page.full == (len(page.events) < len(rest))
        # Without its last transaction it would not have been full.
        last = page.events[-1].group
        before = [item for item in page.events if last is None or item.group is None or item.group.id != last.id]
        before = before if last is not None else before[:-1]
        assert len(before) < most
        assert sum(len(item.body) for item in before) < size
        assert page.events[-1].closes
        seen += page.events
        rest = rest[len(page.events) :]
    assert seen == events


@given(RUNS, st.integers(1, 6), st.integers(0, 20))
def test_a_full_page_is_cut_at_the_same_place_whatever_follows(
    runs: list[tuple[int, int]], most: int, cut: int
) -> None:
    events, limit = _events(runs), PageLimit(most, 10_000)
    page = page_of(events, limit)
    shorter = page_of(events[: len(page.events) + cut], limit)
    if shorter.full:
        assert shorter == page
