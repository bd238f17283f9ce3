from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import orjson
import pytest
from anyio.lowlevel import checkpoint

from eventsync.concurrency.admission import ConnectionPlaces
from eventsync.concurrency.offload import Offload, inline
from eventsync.domain.access.redaction import Redaction
from eventsync.domain.ids import IdText
from eventsync.domain.positions import LogId, Position, Seq, scoped
from eventsync.domain.routes import Routes
from eventsync.domain.shapes import Shape
from eventsync.errors import EventsyncError, TooComplex, Unavailable
from eventsync.stores.log.stored_event import StoredEvent
from eventsync.sync.catch_up.log_pages import LogPages
from eventsync.sync.catch_up.source import Source
from eventsync.sync.clients.lag import ClientLag
from eventsync.sync.live.fan_out import DirectWriter
from eventsync.sync.live.followed import followed
from eventsync.sync.live.pages import PageLimit
from eventsync.sync.live.redacting import prepared, redacted
from eventsync.sync.live.window import Frame, Subscribers, Window
from support.logs_by_hand import seen_shape, view_of

T = TypeVar("T")
LOG, MINE, OTHER = LogId("aaaaaaaa"), bytes(16), b"x" * 16
SECRET, LONG = "s" * 300, "s" * 1000


class Helper(Offload):
    """Notes what it is asked to do, and does it here, or fails."""

    def __init__(self, error: EventsyncError | None = None) -> None:
        super().__init__(above=300, processes=1, waiting_bytes=10**6, seconds=1.0)
        self.sizes: list[int] = []
        self._error = error

    async def run(self, function: Callable[..., T], *args: Any, size: int) -> T:
        self.sizes.append(size)
        await checkpoint()
        if self._error is not None:
            raise self._error
        return function(*args)


def update(seq: int, secret: str, *keys: bytes, **routes: Any) -> StoredEvent:
    patch = [{"op": "replace", "path": "/secret", "value": secret}, {"op": "replace", "path": "/n", "value": seq}]
    body = {"seq": seq, "collection": "orders", "id": "1", "op": "update", "base": 1, "version": 2, "patch": patch}
    encoded = orjson.dumps(body | {"at": "2026-01-01T00:00:00Z"})
    return StoredEvent(Seq(seq), "orders", IdText("1"), encoded, None, Routes(keys or (MINE,), **routes))


HIDING = Redaction([("secret",)])


@pytest.fixture
def shape() -> Shape:
    return seen_shape("orders", [MINE], redaction=HIDING)


async def test_large_events_are_redacted_by_a_helper(shape: Shape) -> None:
    assert shape.route is not None
    route, helper = shape.route, Helper()
    events = [update(1, "s"), update(2, LONG), update(3, LONG, OTHER)]
    bodies = await redacted(events, route, helper)
    assert [seq for seq, _, _ in bodies] == [2]
    assert helper.sizes == [len(events[1].body)]
    assert list(followed(events, route, prepared(bodies))) == list(followed(events, route))


@pytest.mark.parametrize("error", [Unavailable("busy"), TooComplex("slow")])
async def test_large_events_that_a_helper_cannot_redact_are_not_redacted_on_the_loop(
    shape: Shape, error: EventsyncError
) -> None:
    assert shape.route is not None
    with pytest.raises(Unavailable):
        await redacted([update(1, LONG)], shape.route, Helper(error))
    with pytest.raises(Unavailable):
        await source_of(filled([update(1, SECRET)], Helper(error))).frame(shape, Seq(0))


async def test_nothing_is_asked_of_a_helper_where_nothing_is_hidden_or_shown() -> None:
    helper, view = Helper(), view_of("orders", [MINE])
    left = update(1, LONG, MINE, leaves=frozenset([MINE]))
    assert await redacted([update(1, LONG)], view, helper) == {}
    assert await redacted([left], view_of("orders", [MINE], redaction=HIDING), helper) == {}
    window = filled([left], helper)
    assert window.frame(seen_shape("orders", [MINE], redaction=HIDING), Seq(0)) is not None
    assert helper.sizes == []


# --- reads of the window ----------------------------------------------------------------------------------------------


def filled(events: list[StoredEvent], helper: Helper, *, frame_events: int = 100) -> Window:
    """Return a window that keeps four large bodies."""
    window = Window(16 * 1024, PageLimit(frame_events, 10**6), helper)
    window.start(LOG, Seq(0))
    window.extend(events)
    return window


def source_of(window: Window) -> Any:
    source = SimpleNamespace(window=window, log=lambda: LOG, limit=PageLimit(100, 10**6))
    source.frame = partial(Source.frame, cast("Source", source))
    return source


def seqs(frame: Frame) -> list[int]:
    return [event["seq"] for event in orjson.loads(frame.data)["events"]]


async def test_large_events_of_a_frame_are_redacted_by_a_helper_once_for_all_readers(shape: Shape) -> None:
    helper = Helper()
    window = filled([update(1, "s"), *(update(seq, SECRET) for seq in range(2, 8))], helper)
    source, subscribers = source_of(window), Subscribers(window)
    subscribers.add(shape)
    frames: list[Frame] = await asyncio.gather(*(source.frame(shape, Seq(0)) for _ in range(5)))
    assert seqs(frames[0]) == [*range(1, 8)]
    assert all(frame.data is frames[0].data for frame in frames), "they share its memory"
    assert SECRET.encode() not in frames[0].data
    assert len(helper.sizes) == 6
    assert (await source.frame(shape, Seq(0))).data is frames[0].data
    assert len(helper.sizes) == 6


async def _frame(window: Window, shape: Shape) -> list[int]:
    return seqs(await source_of(window).frame(shape, Seq(0)))


async def _page(window: Window, shape: Shape) -> list[int]:
    pages = LogPages(source_of(window), cast("Any", None), cast("Any", None), ConnectionPlaces(1))
    page = await pages._read_page(shape, Position(scoped(LOG, shape.scope), Seq(0)), 100)
    return [event["seq"] for event in orjson.loads(b"".join(page.parts))["events"]]


async def _behind(window: Window, shape: Shape) -> list[int]:
    assert shape.route is not None
    everything = window.events(Shape("orders"), Seq(0))
    return [seq for seq, _, _ in await redacted(everything, shape.route, inline())]


@pytest.mark.parametrize("read", [_frame, _page, _behind])
async def test_many_events_are_redacted_with_pauses(
    shape: Shape, read: Callable[[Window, Shape], Awaitable[list[int]]]
) -> None:
    window = Window(64 * 1024 * 1024, PageLimit(100, 10**6))
    window.start(LOG, Seq(0))
    subscriber = Subscribers(window).add(shape)
    subscriber.attach(Position(scoped(LOG, shape.scope), Seq(0)), DirectWriter(lambda _: b"", lambda _: False))
    window.extend([update(seq, "s" * 60_000) for seq in range(1, 101)])
    assert subscriber.event.is_set(), "they are too many to be redacted as they are published"
    reading = asyncio.ensure_future(read(window, shape))
    turns = 0
    while not reading.done():
        turns += 1
        await checkpoint()
    assert turns > 50
    assert await reading == [*range(1, 101)]


async def test_large_events_of_later_frames_are_not_redacted_yet(shape: Shape) -> None:
    helper = Helper()
    events = [update(seq, SECRET) for seq in range(1, 9)]
    assert seqs(await source_of(filled(events, helper, frame_events=1)).frame(shape, Seq(0))) == [1]
    assert len(helper.sizes) == 2, "with the one that ends the frame"


async def test_large_event_of_a_page_is_kept_for_the_next_poll_whatever_its_size(shape: Shape) -> None:
    helper, view = Helper(), seen_shape("orders", [MINE], redaction=Redaction([("other",)]))
    source = source_of(filled([update(1, "s" * 5000)], helper))
    pages = LogPages(source, cast("Any", None), cast("Any", None), ConnectionPlaces(1))
    for _ in range(3):
        page = await pages._read_page(view, Position(scoped(LOG, view.scope), Seq(0)), 100)
        assert page.events == 1
    assert len(helper.sizes) == 1


def test_lag_of_a_client_redacts_nothing(shape: Shape) -> None:
    helper = Helper()
    window = filled([update(seq, SECRET) for seq in range(1, 4)], helper)
    lag = ClientLag(cast("Any", SimpleNamespace(window=window, planner=None)), cast("Any", None))
    assert lag._in_window(shape, Position(scoped(LOG, shape.scope), Seq(1))).events == 2
    assert helper.sizes == []


async def test_page_ends_at_the_head_that_the_window_has_when_it_is_read(shape: Shape) -> None:
    helper = Helper()
    window = filled([update(1, SECRET)], helper)
    pages = LogPages(source_of(window), cast("Any", None), cast("Any", None), ConnectionPlaces(1))
    reading = asyncio.ensure_future(pages._read_page(shape, Position(scoped(LOG, shape.scope), Seq(0)), 100))
    while not helper.sizes:
        await checkpoint()
    window.extend([update(2, "s")])
    page = await reading
    assert (page.events, page.end.seq) == (2, 2)


async def test_read_ends_if_a_new_log_is_begun_while_a_helper_works(shape: Shape) -> None:
    helper = Helper()
    window = filled([update(1, SECRET)], helper)
    reading = asyncio.ensure_future(source_of(window).frame(shape, Seq(0)))
    while not helper.sizes:
        await checkpoint()
    window.start(LogId("bbbbbbbb"), Seq(0))
    window.extend([update(1, "t" * 300)])
    with pytest.raises(Unavailable, match="new log"):
        await reading
    frame = await source_of(window).frame(shape, Seq(0))
    assert len(helper.sizes) == 2, "the event of the other log has the same number"
    assert seqs(frame) == [1]


async def test_large_event_wakes_those_from_whom_something_is_hidden(shape: Shape) -> None:
    window, sent = filled([], Helper()), list[bytes]()
    everything = Shape("orders")

    def write(data: bytes) -> bool:
        sent.append(data)
        return True

    subscribers = Subscribers(window)
    for followed_shape in (shape, everything):
        start = Position(scoped(LOG, followed_shape.scope), Seq(0))
        subscribers.add(followed_shape).attach(start, DirectWriter(lambda publication: publication.data, write))
    window.extend([update(1, SECRET)])
    assert subscribers.event.is_set()
    (message,) = sent
    assert SECRET.encode() in message, "nothing is hidden from these"
    window.extend([update(2, "s")])
    assert SECRET.encode() not in (await source_of(window).frame(shape, Seq(0))).data
