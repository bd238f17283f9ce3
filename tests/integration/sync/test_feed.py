"""The feed on a real log: the window stays dense, whole and of the current log after each interruption."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from bson.int64 import Int64
from bson.timestamp import Timestamp

from eventsync.access.control import AccessControl
from eventsync.domain.events import TransactionPart
from eventsync.domain.ids import IdText
from eventsync.domain.positions import LogId, Seq
from eventsync.domain.shapes import Shape
from eventsync.errors import UnknownShape
from eventsync.mongodb.change_stream import watch
from eventsync.mongodb.client import Client, app_name, connect
from eventsync.mongodb.primary import primary_process
from eventsync.settings import Settings
from eventsync.stores.log.definitions import Definitions
from eventsync.stores.log.events import NewEvent
from eventsync.stores.log.logs import Log
from eventsync.stores.log.registry import Declaration
from eventsync.stores.log.stored_event import StoredEvent
from eventsync.stores.log.tracking import TrackedCollection, Tracking
from eventsync.stores.stores import Stores
from eventsync.sync.live.continuity import Continuity
from eventsync.sync.live.feed import Feed
from eventsync.sync.live.pages import PageLimit
from eventsync.sync.live.window import Window
from support.failpoints import failing
from support.waiting import patience, within

ORDERS = Shape("orders")


class Fed:
    """A feed, the window that it fills, and a way to wait for it."""

    def __init__(self, stores: Stores, settings: Settings) -> None:
        self.window = Window(settings.window_bytes, PageLimit(1000, 1_000_000))
        self.tracking = Tracking()
        self.definitions = Definitions(self.tracking)
        self.continuity = Continuity(lambda: primary_process(stores.log), patience(20))
        self.asked, self.resumed = asyncio.Event(), asyncio.Event()
        self.resumed.set()
        self.access = AccessControl.open(stores.credentials, settings)
        self.access.until_resumed = self._until_resumed
        self.feed = Feed(stores, self.window, self.continuity, self.tracking, self.definitions, settings, self.access)

    async def suspend(self, notify: Callable[[], Awaitable[object]]) -> None:
        """Have the feed wait before it takes what it reads, until `resumed`; `notify` gives it something to read."""
        self.resumed.clear()
        await notify()
        async with within(20):
            await self.asked.wait()

    async def _until_resumed(self) -> None:
        self.asked.set()
        await self.resumed.wait()

    async def until(self, reached: Callable[[], bool]) -> None:
        with self.window.subscribers() as subscribers:
            subscribers.add(ORDERS)
            async with within(20):
                while not reached():
                    await subscribers.event.wait()
                    subscribers.event.clear()

    async def at(self, seq: int) -> None:
        await self.until(lambda: self.window.head >= seq)

    def seqs(self) -> list[int]:
        return [event.seq for event in self.window.events(ORDERS, self.window.floor)]


@asynccontextmanager
async def fed(stores: Stores, settings: Settings) -> AsyncIterator[Fed]:
    made, stop = Fed(stores, settings), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(made.feed.run(stop), name="feed")
        try:
            yield made
        finally:
            stop.set()


async def begin(stores: Stores, previous: Log | None = None) -> Log:
    await stores.ensure_indexes()
    async with watch(stores.data, []) as stream:
        token = stream.token
    log = await stores.logs.begin(previous, cluster="c", reason="test", token=token, time=Timestamp(1, 1))
    await stores.tracking.ask(["orders"])
    await stores.tracking.activate(["orders"], log.id, Seq(0))
    return log


async def append(stores: Stores, log: Log, first: int, count: int, *, of: int = 1, done: int = 0) -> None:
    """Events `first` … in transactions of `of`, of the first of which `done` events are there already."""
    events = []
    for index in range(count):
        number = done + index
        group = TransactionPart(f"s:{first - done + number // of * of}", number % of + 1, of) if of > 1 else None
        seq = first + index
        event = StoredEvent(Seq(seq), "orders", IdText(str(seq % 5)), b'{"seq":%d}' % seq, group)
        events.append(NewEvent(event, 1, "82AA", Timestamp(seq, 1)))
    await stores.events.append(log.id, events)


async def test_feed_start_reads_the_newest_events(stores: Stores, settings: Settings) -> None:
    log = await begin(stores)
    await append(stores, log, 1, 10)
    async with fed(stores, settings) as server:
        await server.at(10)
        assert (server.window.log, server.window.floor) == (log.id, 0)
        assert server.seqs() == list(range(1, 11))
        assert server.tracking.names == ["orders"]
        assert server.feed.state.live


async def test_feed_appends_new_events_in_order(stores: Stores, settings: Settings) -> None:
    log = await begin(stores)
    async with fed(stores, settings) as server:
        await server.until(lambda: server.window.log == log.id)
        for first in range(1, 400, 40):
            await append(stores, log, first, 40)
        await server.at(400)
        assert server.seqs() == list(range(1, 401))


async def test_feed_appends_nothing_while_connections_are_suspended(stores: Stores, settings: Settings) -> None:
    log = await begin(stores)
    async with fed(stores, settings) as server:
        await server.until(lambda: server.window.log == log.id)
        await server.suspend(lambda: append(stores, log, 1, 3))
        assert server.window.head == 0
        server.resumed.set()
        await server.at(3)


async def test_feed_obeys_a_revocation_before_the_events_between_it_and_a_change_of_the_registry(
    stores: Stores, settings: Settings
) -> None:
    log = await begin(stores)
    async with fed(stores, settings) as server:
        await server.until(lambda: server.window.log == log.id)
        await server.suspend(lambda: append(stores, log, 1, 1))
        obeyed_at: list[int] = []
        server.access.on_change.append(lambda: obeyed_at.append(server.window.head))
        # The feed waits, so its next read brings all of them.
        await stores.credentials.revocations.add("sub:ada", 60.0)
        await append(stores, log, 2, 1)
        await stores.tracking.ask(["news"])
        await append(stores, log, 3, 1)
        server.resumed.set()
        await server.at(3)
        assert obeyed_at == [1, 2], "first the revocation, and then the registry"


async def test_feed_start_reads_a_bounded_past_of_whole_transactions(stores: Stores, settings: Settings) -> None:
    log = await begin(stores)
    await append(stores, log, 1, 1204, of=7)
    async with fed(stores, settings) as server:
        await server.until(lambda: server.window.log == log.id and server.window.head == 1204)
        assert 1204 - 1000 - 7 < server.window.floor <= 1204 - 1000
        assert server.window.floor % 7 == 0
        assert server.seqs() == list(range(server.window.floor + 1, 1205))


async def test_feed_start_leaves_out_archived_events(stores: Stores, settings: Settings) -> None:
    """Both for archived and for deleted events."""
    log = await begin(stores)
    await append(stores, log, 1, 50)
    await stores.tiers.raise_archived_up_to(log.id, Seq(30))
    await stores.tiers.raise_horizon(log.id, Seq(20))
    await stores.log["events"].delete_many({"_id.n": {"$lte": 30}})
    async with fed(stores, settings) as server:
        await server.until(lambda: server.window.log == log.id and server.window.head == 50)
        assert server.window.floor == 30
        assert server.seqs() == list(range(31, 51))
        assert server.feed.state.live


async def test_feed_holds_back_an_incomplete_transaction(stores: Stores, settings: Settings) -> None:
    log = await begin(stores)
    await append(stores, log, 1, 2)
    await append(stores, log, 3, 2, of=4)
    async with fed(stores, settings) as server:
        await server.at(2)
        await append(stores, log, 5, 1, of=4, done=2)
        await stores.tracking.ask(["news"])  # it comes behind the event, and makes the feed read the log's tail too
        await stores.tracking.activate(["news"], log.id, Seq(5))
        await server.until(lambda: "news" in server.tracking.names)
        assert server.window.head == 2
        await append(stores, log, 6, 1, of=4, done=3)
        await server.at(6)
        assert server.seqs() == [1, 2, 3, 4, 5, 6]


async def test_feed_publishes_an_incomplete_transaction_before_a_checkpoint(stores: Stores, settings: Settings) -> None:
    log = await begin(stores)
    await append(stores, log, 1, 2)
    await append(stores, log, 3, 2, of=4)
    async with fed(stores, settings) as server:
        await server.at(2)
        await stores.logs.checkpoint(log.id, Seq(2), "82AB", Timestamp(2, 2))
        await news(stores, log, server)
        assert server.window.head == 2, "the checkpoint stands before it"
        await stores.logs.checkpoint(log.id, Seq(4), "82AC", Timestamp(9, 1))
        await server.at(4)
        assert server.seqs() == [1, 2, 3, 4]


async def test_feed_start_behind_the_checkpoint_publishes_the_incomplete_transaction(
    stores: Stores, settings: Settings
) -> None:
    log = await begin(stores)
    await append(stores, log, 1, 2, of=4)
    await stores.logs.checkpoint(log.id, Seq(2), "82AC", Timestamp(9, 1))
    async with fed(stores, settings) as server:
        await server.at(2)


async def test_feed_does_not_split_a_transaction_before_a_later_checkpoint(stores: Stores, settings: Settings) -> None:
    """The events in between may be the rest, which the server has not read yet."""
    log = await begin(stores)
    await append(stores, log, 1, 2, of=4)
    server = Fed(stores, settings)
    await server.feed._join()
    await append(stores, log, 3, 2, of=4, done=2)
    await stores.logs.checkpoint(log.id, Seq(4), "82AC", Timestamp(9, 1))
    await server.feed._settle()
    assert server.window.head == 0
    await server.feed._join()
    assert server.window.head == 4


async def test_feed_takes_no_event_from_after_a_registry_that_it_does_not_know(
    stores: Stores, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a client of a collection that was tracked again could get beyond its restart, and miss what was before."""
    log = await begin(stores)
    await append(stores, log, 1, 2)
    server, read = Fed(stores, settings), stores.tracking.read

    async def outdated() -> list[TrackedCollection]:
        found = await read()
        await stores.tracking.activate(["orders"], log.id, Seq(3))
        await append(stores, log, 3, 1)
        return found

    monkeypatch.setattr(stores.tracking, "read", outdated)
    await server.feed._join()
    assert server.tracking.tracked_from("orders") == 0
    assert server.window.head == 2
    monkeypatch.undo()
    await server.feed._join()
    assert server.tracking.tracked_from("orders") == server.window.head == 3


async def test_feed_ends_a_transaction_at_an_event_of_another(stores: Stores, settings: Settings) -> None:
    log = await begin(stores)
    await append(stores, log, 1, 2, of=4)
    async with fed(stores, settings) as server:
        await server.until(lambda: server.window.log == log.id)
        await append(stores, log, 3, 1, of=2)
        await server.at(2)
        await news(stores, log, server)
        assert server.window.head == 2


async def news(stores: Stores, log: Log, server: Fed) -> None:
    """Wait until the server has seen all that was written before this."""
    await stores.tracking.ask(["news"])
    await stores.tracking.activate(["news"], log.id, Seq(2))
    await server.until(lambda: "news" in server.tracking.names)


async def test_feed_joins_event_parts_and_restarts_behind_a_missing_part(
    stores: Stores, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    log = await begin(stores)
    body = b"{" + os.urandom(17_000_000) + b"}"
    large = NewEvent(StoredEvent(Seq(1), "orders", IdText("1"), body, None), 1, "82AA", Timestamp(1, 1))
    async with fed(stores, settings) as server:
        await server.until(lambda: server.window.log == log.id)
        await stores.events.append(log.id, [large])
        await server.at(1)
        assert [event.body for event in server.window.events(ORDERS, Seq(0))] == [body]
    await stores.log["event_parts"].delete_many({"_id.p": 1})
    async with fed(stores, settings) as server, within(20):
        await append(stores, log, 2, 1)
        await server.at(2)
        assert (server.window.floor, server.seqs()) == (1, [2])
        assert server.feed.state.live
    assert (
        f"ALARM: part 1 of event {log.id}:1 is missing; clients that stand before {log.id}:1 are reset" in caplog.text
    )


async def test_feed_reads_events_missed_during_an_interruption(
    client: Client, stores: Stores, settings: Settings
) -> None:
    log = await begin(stores)
    async with connect(settings, "feed") as own, fed(Stores.of(own, settings), settings) as server:
        await server.until(lambda: server.window.log == log.id)
        for first in (1, 101, 201):
            async with failing(client, "getMore", 43, app=app_name(settings, "feed")):
                await append(stores, log, first, 100)
                await server.at(first + 99)
        assert server.seqs() == list(range(1, 301))
        async with within(20):
            while not server.feed.state.live:  # noqa: ASYNC110 - there is no event for it
                await asyncio.sleep(0.01)


async def test_feed_reads_the_log_after_a_lost_change_stream(
    client: Client, stores: Stores, settings: Settings
) -> None:
    log = await begin(stores)
    async with connect(settings, "feed") as own, fed(Stores.of(own, settings), settings) as server:
        await server.until(lambda: server.window.log == log.id)
        async with failing(client, "getMore", 286, app=app_name(settings, "feed")):
            await append(stores, log, 1, 50)
            await server.at(50)
        assert server.seqs() == list(range(1, 51))


async def test_feed_never_skips_a_gap(stores: Stores, settings: Settings) -> None:
    log = await begin(stores)
    await append(stores, log, 1, 3)
    server = Fed(stores, settings)
    await server.feed._join()
    await append(stores, log, 4, 6)
    rows = await stores.log["events"].find({"_id.n": {"$in": [3, 6, 9]}}, sort=[("_id", 1)]).to_list()
    await server.feed._take(rows)
    assert server.seqs() == list(range(1, 10))
    await server.feed._take(rows)
    assert server.seqs() == list(range(1, 10)), "what is there already is not taken twice"


async def test_feed_far_behind_restarts_the_window(stores: Stores, settings: Settings) -> None:
    log = await begin(stores)
    await append(stores, log, 1, 10)
    server = Fed(stores, settings)
    await server.feed._join()
    await append(stores, log, 11, 1500)
    await server.feed._join()
    assert (server.window.floor, server.window.head) == (510, 1510)
    assert server.seqs() == list(range(511, 1511))


async def test_feed_replaces_the_window_with_a_new_log(stores: Stores, settings: Settings) -> None:
    old = await begin(stores)
    await append(stores, old, 1, 5)
    async with fed(stores, settings) as server:
        await server.at(5)
        new = await begin(stores, old)
        await append(stores, new, 1, 3)
        await server.until(lambda: server.window.log == new.id and server.window.head == 3)
        assert server.seqs() == [1, 2, 3]
        await append(stores, old, 6, 1)
        await append(stores, new, 4, 1)
        await server.at(4)
        assert server.seqs() == [1, 2, 3, 4]
        assert server.window.log == new.id


async def test_feed_wakes_those_that_wait_for_a_new_log(stores: Stores, settings: Settings) -> None:
    old = await begin(stores)
    server = Fed(stores, settings)
    await server.feed._join()
    server.feed._suspend("the log was deleted")
    logs: list[LogId | None] = []

    def is_served() -> bool:
        if server.window.suspended is None:
            logs.append(server.window.log)
        return bool(logs)

    waiting = asyncio.create_task(server.tracking.until(is_served, patience(20)))
    new = await begin(stores, old)
    await server.feed._join()
    async with within(5):  # another change of the registry may not come for hours
        await waiting
    assert logs == [new.id], "nothing is served before the window is of the new log"


async def test_feed_does_not_track_a_collection_of_an_old_log(stores: Stores, settings: Settings) -> None:
    old = await begin(stores)
    async with fed(stores, settings) as server:
        await server.until(lambda: server.tracking.names == ["orders"])
        await stores.logs.begin(old, cluster="c", reason="test", token="82AA", time=Timestamp(1, 1))
        await server.until(lambda: server.tracking.names == [])


async def test_feed_waits_for_the_first_worker(stores: Stores, settings: Settings) -> None:
    async with fed(stores, settings) as server:
        await stores.tracking.ask(["orders"])
        assert server.window.log is None
        log = await begin(stores)
        await append(stores, log, 1, 1)
        await server.at(1)
        assert server.window.log == log.id


async def test_feed_reads_events_too_large_for_a_change_stream_from_the_log(stores: Stores, settings: Settings) -> None:
    log = await begin(stores)
    async with fed(stores, settings) as server:
        await server.until(lambda: server.window.log == log.id)
        for seq in (1, 2):
            body = b'{"seq":%d,"doc":"%b"}' % (seq, b"x" * 17_000_000)
            event = StoredEvent(Seq(seq), "orders", IdText("1"), body, None)
            await stores.events.append(log.id, [NewEvent(event, 1, "82AA", Timestamp(seq, 1))])
        await server.at(2)
        (last,) = server.window.events(ORDERS, Seq(1))
        assert len(last.body) > 17_000_000


@pytest.mark.parametrize("log", ["zzzz"])
async def test_feed_ignores_events_of_unknown_logs(stores: Stores, settings: Settings, log: str) -> None:
    current = await begin(stores)
    async with fed(stores, settings) as server:
        await server.until(lambda: server.window.log == current.id)
        await append(stores, Log(LogId(log), 9, "c", "x"), 1, 3)
        await append(stores, current, 1, 1)
        await server.at(1)
        assert server.seqs() == [1]


MY_ORDERS = Declaration("my_orders", "orders", "{}", "d1")


async def activated(stores: Stores, log: Log, seq: int) -> int:
    """Activate the declared shape behind event `seq`; return the revision of its activation."""
    await stores.definitions.apply([MY_ORDERS])
    shapes = (await stores.definitions.read()).shapes
    (active,) = (await stores.definitions.activate(shapes, log.id, Seq(seq), Timestamp(1, 1))).active(log.id)
    return active.revision


async def test_feed_follows_the_declared_shapes(stores: Stores, settings: Settings) -> None:
    log = await begin(stores)
    async with fed(stores, settings) as server:
        await server.until(lambda: server.window.log == log.id)
        with pytest.raises(UnknownShape):
            server.definitions.resolve("my_orders")
        await activated(stores, log, 0)
        await server.definitions.until(lambda: server.definitions.is_active("my_orders"), patience(20))
        assert server.definitions.resolve("my_orders").since == 0
        await stores.definitions.apply([])
        await server.definitions.until(lambda: not server.definitions.is_active("my_orders"), patience(20))
        with pytest.raises(UnknownShape):
            server.definitions.resolve("my_orders")


@pytest.mark.parametrize("knows", [True, False])
@pytest.mark.parametrize("live", [True, False])
async def test_feed_believes_an_activation_only_if_the_next_event_confirms_it(
    stores: Stores, settings: Settings, *, knows: bool, live: bool
) -> None:
    log = await begin(stores)
    await append(stores, log, 1, 1)

    async def deposed_or_not(revision: int) -> None:
        await append(stores, log, 2, 1)
        if knows:
            await stores.log["events"].update_one({"_id.n": 2}, {"$set": {"r": revision}})

    if not live:
        await deposed_or_not(await activated(stores, log, 1))
    async with fed(stores, settings) as server:
        await server.until(lambda: server.window.log == log.id)
        if live:
            revision = await activated(stores, log, 1)
            await server.definitions.until(lambda: server.definitions.is_active("my_orders"), patience(20))
            row = {"_id": {"l": log.id, "n": Int64(2)}, "t": "82AA", "s": Timestamp(2, 1), "c": "orders", "i": "2"}
            row |= {"v": Int64(1), "b": '{"seq":2}'} | ({"r": Int64(revision)} if knows else {})
            await stores.log["events"].insert_one(row)
        await server.at(2)
        assert server.definitions.is_active("my_orders") == knows
        await append(stores, log, 3, 1)
        await server.at(3)
        assert server.definitions.is_active("my_orders") == knows
