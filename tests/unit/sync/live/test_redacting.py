from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import orjson
import pytest

from eventsync.concurrency.offload import Offload
from eventsync.domain.access.redaction import Redaction
from eventsync.domain.ids import IdText
from eventsync.domain.positions import LogId, Position, Seq, scoped
from eventsync.domain.routes import Routes
from eventsync.domain.shapes import Shape
from eventsync.errors import EventsyncError, TooComplex, Unavailable
from eventsync.stores.log.stored_event import StoredEvent
from eventsync.sync.live.fan_out import DirectWriter
from eventsync.sync.live.followed import followed
from eventsync.sync.live.pages import PageLimit
from eventsync.sync.live.redacting import prepared, redacted
from eventsync.sync.live.window import Subscribers, Window
from support.logs_by_hand import seen_shape, view_of

T = TypeVar("T")
LOG, MINE, OTHER = LogId("aaaaaaaa"), bytes(16), b"x" * 16
SECRET = "s" * 300


class Helper(Offload):
    """Notes what it is asked to do, and does it here, or fails."""

    def __init__(self, error: EventsyncError | None = None) -> None:
        super().__init__(above=300, processes=1, waiting_bytes=10**6, seconds=1.0)
        self.sizes: list[int] = []
        self._error = error

    async def run(self, function: Callable[..., T], *args: Any, size: int) -> T:
        self.sizes.append(size)
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


@pytest.mark.parametrize("error", [None, Unavailable("busy"), TooComplex("slow")])
async def test_large_events_are_redacted_by_a_helper_and_here_if_it_fails(
    shape: Shape, error: EventsyncError | None
) -> None:
    assert shape.route is not None
    route, helper = shape.route, Helper(error)
    events = [update(1, "s"), update(2, SECRET), update(3, SECRET, OTHER)]
    bodies = await redacted(events, lambda _: (route, route), helper)
    assert [seq for seq, _, _ in bodies] == ([2] if error is None else [])
    assert helper.sizes[:1] == [len(events[1].body)]
    assert list(followed(events, route, prepared(bodies))) == list(followed(events, route))


async def test_nothing_is_asked_of_a_helper_where_nothing_is_hidden_or_shown() -> None:
    helper, view = Helper(), view_of("orders", [MINE])
    left = update(1, SECRET, MINE, leaves=frozenset([MINE]))
    assert await redacted([update(1, SECRET)], lambda _: (view,), helper) == {}
    assert await redacted([left], lambda _: (view_of("orders", [MINE], redaction=HIDING),), helper) == {}
    assert helper.sizes == []


async def test_window_publishes_what_a_helper_has_redacted(shape: Shape) -> None:
    window, sent = Window(64 * 1024, PageLimit(100, 10**6)), list[bytes]()
    window.start(LOG, Seq(0))
    subscriber = Subscribers(window).add(shape)
    start = Position(scoped(LOG, shape.scope), Seq(0))

    def write(data: bytes) -> bool:
        sent.append(data)
        return True

    subscriber.attach(start, DirectWriter(lambda publication: publication.data, write))
    events, helper = [update(1, SECRET)], Helper()
    bodies = await redacted(events, window.followers, helper)
    window.extend(events, {key: body.replace(b'"value":1', b'"value":9') for key, body in bodies.items()})
    (message,) = sent
    assert b'"patch":[{"op":"replace","path":"/n","value":9}]' in message, "it was not redacted again"
    assert SECRET.encode() not in message
