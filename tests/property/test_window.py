from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from eventsync.concurrency.waiting import LightEvent
from eventsync.domain.events import place
from eventsync.domain.positions import LogId, Position, Seq
from eventsync.domain.routes import Routes
from eventsync.domain.shapes import Shape
from eventsync.stores.log.stored_event import StoredEvent
from eventsync.sync.live.fan_out import DirectWriter
from eventsync.sync.live.pages import PageLimit
from eventsync.sync.live.window import Subscribers, Window
from support.logs_by_hand import MINE, event, routed_shape, transaction, view_of

LOG = LogId("aaaa")
MEMBERS = st.tuples(st.sampled_from(["orders", "users"]), st.sampled_from(["1", "2", "3"]))
PLAIN = [Shape.parse(text) for text in ("orders", "users", "orders/1", "orders/2", "users/3", "users/9")]
ONE, TWO = routed_shape("mine?a=1"), routed_shape("mine?a=1&a=2")
KEYS = sorted(MINE.keys({"a": ["1", "2", "3"]}))


def seen(text: str, *clauses: list[bytes]) -> Shape:
    return replace(Shape.parse(text), route=view_of(text, *clauses))


WHOLE, PART, BOTH, DOCUMENT = (
    seen("all?"),
    seen("part?", KEYS[:1]),
    seen("both?", KEYS[:2], KEYS[1:]),
    seen("orders/3", KEYS[:1]),
)
SHAPES = [*PLAIN, ONE, TWO, routed_shape("mine?a=9"), WHOLE, PART, BOTH, DOCUMENT]
FOLLOWED = [*PLAIN[::2], ONE, TWO, WHOLE, PART, BOTH, DOCUMENT]
ROUTES = st.lists(st.sampled_from(KEYS), max_size=3, unique=True).map(lambda keys: Routes(tuple(sorted(keys))))


class Client:
    """A client that attaches as often as it can, and reads what was not written to it."""

    def __init__(self, window: Window, shape: Shape) -> None:
        self.shape = shape
        self.position = self.announced = window.head
        self.got: list[int] = []
        self.takes = True
        self._window = window
        self._event = LightEvent()
        self._subscriber = window.subscribe(shape, self._event)

    def attach(self) -> None:
        if self._window.is_current(self.shape, self.announced):
            self._subscriber.attach(
                Position(self._window.log_of(self.shape) or LOG, self.position),
                DirectWriter(lambda publication: publication.data, self._write),
            )

    def _write(self, data: bytes) -> bool:
        if self.takes:
            self._take(json.loads(data))
        return self.takes

    def _take(self, message: dict[str, Any]) -> None:
        start, end = (Position.parse(message[name]).seq for name in ("from", "to"))
        assert start <= self.announced, "nothing is missing before it"
        self.got += [item["seq"] for item in message["events"] if item["seq"] > self.announced]
        self.announced = end

    def detach(self) -> None:
        """Detach, with or without a wake-up, and read the window."""
        self._subscriber.detach()
        if self._subscriber.position is not None:
            self.position = max(self.position, self._subscriber.position.seq)
        assert self.position >= self.announced, "it has what it was sent"
        if self._window.is_current(self.shape, self.announced):
            self.position = self._window.head
        else:
            assert self._event.is_set(), "it was woken because there is more"
        self._event.clear()
        while self._window.covers(self.announced, self.shape) and (
            frame := self._window.frame(self.shape, self.announced)
        ):
            self._take(json.loads(frame.data))
            self.position = self.announced

    def missed(self, seqs: list[int]) -> None:
        """It fell behind the window: what it lacks comes from elsewhere."""
        if not self._window.covers(self.announced, self.shape):
            self.got += seqs
            self.position = self.announced = self._window.head


class Cursors(RuleBasedStateMachine):
    """A window under random events, against the plain list of all events and cursors that must each get their own."""

    @initialize(
        limit=st.sampled_from([1, 8000, 40_000, 1_000_000]), frame=st.integers(1, 5), start=st.sampled_from([0, 40])
    )
    def begin(self, limit: int, frame: int, start: int) -> None:
        self.window = Window(limit, PageLimit(frame, 10_000))
        self.window.start(LOG, Seq(start))
        self.clients = [Client(self.window, shape) for shape in FOLLOWED]
        for client in self.clients:
            client.attach()
        self.subscribers = Subscribers(self.window)
        self.subscribed: set[Shape] = set()
        self.events: list[StoredEvent] = []
        self.start = start
        self.cursors: dict[tuple[Shape, int], tuple[Seq, list[int]]] = {}
        for shape in SHAPES:
            for number in range(2):
                self.cursors[shape, number] = (Seq(start), [])

    @rule(members=st.lists(st.tuples(MEMBERS, st.integers(0, 3), ROUTES), min_size=1, max_size=4))
    def extend(self, members: list[tuple[tuple[str, str], int, Routes]]) -> None:
        batch: list[StoredEvent] = []
        for (collection, key), more, keys in members:
            first = self.window.head + len(batch) + 1
            if more == 3:
                batch += [replaced._replace(routes=keys) for replaced in transaction(first, [("orders", key)] * 3)]
            elif more:
                batch += transaction(first, [(collection, key)] + [("users", "3"), ("orders", "1")] * more)
            else:
                batch.append(event(first, collection, key, routes=keys if collection == "orders" else None))
        batch = [item._replace(body=place(b'"n":0', item.seq, item.transaction)) for item in batch]
        self.window.extend(batch)
        self.events += batch

    @rule(shape=st.sampled_from(SHAPES))
    def subscribe_or_unsubscribe(self, shape: Shape) -> None:
        if shape in self.subscribed:
            self.subscribed.remove(shape)
            self.subscribers.remove(shape)
        else:
            self.subscribed.add(shape)
            self.subscribers.add(shape)

    @rule(number=st.integers(0, len(FOLLOWED) - 1), takes=st.booleans(), again=st.booleans())
    def detach(self, number: int, takes: bool, again: bool) -> None:
        client = self.clients[number]
        client.detach()
        client.missed(self.after(client.shape, client.announced))
        assert client.got == self.after(client.shape, Seq(self.start))
        client.takes = takes
        if again:
            client.attach()

    @rule(shape=st.sampled_from(SHAPES), number=st.integers(0, 1))
    def take(self, shape: Shape, number: int) -> None:
        position, got = self.cursors[shape, number]
        if not self.window.covers(position, shape):
            # It fell behind: the store serves what is not here any more.
            self.cursors[shape, number] = (self.window.head, got + self.after(shape, position))
            return
        frame = self.window.frame(shape, position)
        missed = self.after(shape, position)
        assert (frame is None) == (not missed)
        assert [item.seq for item in self.window.events(shape, position)] == missed
        if frame is None:
            return
        message: dict[str, Any] = json.loads(frame.data)
        seqs = [item["seq"] for item in message["events"]]
        assert frame.start <= position < frame.end, "frames join"
        log = self.window.log_of(shape)
        assert (message["from"], message["to"]) == (f"{log}:{frame.start}", f"{log}:{frame.end}")
        new = [seq for seq in seqs if seq > position]
        assert seqs[-1] == frame.end
        assert new == missed[: len(new)], "each event of the shape, in order, once"
        last = self.events[seqs[-1] - self.start - 1]
        assert all(
            item.transaction is None or last.transaction is None or item.transaction.id != last.transaction.id
            for item in self.events
            if item.seq in missed[len(new) :]
        ), "a transaction is not split"
        self.cursors[shape, number] = (frame.end, got + new)

    def after(self, shape: Shape, position: Seq) -> list[int]:
        return [
            item.seq
            for item in self.events
            if item.seq > position and item.collection == shape.collection and _is_of(item, shape)
        ]

    @invariant()
    def bounded(self) -> None:
        if hasattr(self, "window"):
            kept = len(self.window._all)
            assert self.window.head - self.window.floor == kept
            assert self.window.bytes <= self.window._limit or kept <= 1
            assert len(self.window._by_topic) <= (2 + len(KEYS)) * kept
            assert len(self.window._frames) <= len(self.window._by_topic) + len(self.window._channels)
            assert set(self.window._by_source) <= {*MINE.keys({"a": ["1", "2", "9"]}), *KEYS, "orders", ("orders", "3")}

    def teardown(self) -> None:
        if not hasattr(self, "cursors"):
            return
        for shape, number in self.cursors:
            while self.after(shape, self.cursors[shape, number][0]):
                self.take(shape, number)
            assert self.cursors[shape, number][1] == self.after(shape, Seq(self.start))
        for number in range(len(self.clients)):
            self.detach(number, takes=True, again=False)


def _is_of(item: StoredEvent, shape: Shape) -> bool:
    if shape.route is None:
        return shape.id in (None, item.id)
    keys = set(item.routes.keys) if item.routes else set()
    return shape.id in (None, item.id) and all(keys & clause for clause in shape.route.clauses)


def test_every_cursor_gets_each_event_of_its_shape_exactly_once() -> None:
    run_state_machine_as_test(Cursors, settings=settings(max_examples=40, stateful_step_count=30, deadline=None))
