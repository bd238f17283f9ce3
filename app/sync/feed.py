"""The feed: one tail of the event log for a whole server process, however many clients it has.

Subscribe first, then read, then join the two with a gap check: a seq that does not follow is never skipped, the range
before it is read from the store.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from app.domain.position import Seq
from app.domain.replay import Damaged
from app.domain.values import CODEC
from app.errors import Unavailable, told
from app.settings import Settings
from app.stores.changes import ChangeStream, watch
from app.stores.logs import Log
from app.stores.stored_event import StoredEvent
from app.stores.stores import Stores
from app.stores.tiers import BehindHorizon
from app.stores.tracking import Tracking
from app.sync.window import Window
from app.waiting import backoff, set_within

log = logging.getLogger(__name__)

_WAIT = 1.0
_BACKOFF_CAP = 2.0
_READ_BACK = 1000
"""How many events of the past a server takes into its window at start, for the clients that reconnect then."""

_READ_AT_ONCE = 100

_GROWING = {"ns.coll": {"$in": ["events", "heads", "logs"]}, "operationType": {"$ne": "delete"}}
_PIPELINE: list[dict[str, Any]] = [
    {"$match": {"$or": [_GROWING, {"ns.coll": "collections"}]}},
    {"$project": {"ns.coll": 1, "fullDocument": {"_id": 1, "c": 1, "i": 1, "g": 1, "b": 1}}},
]


@dataclass(slots=True)
class FeedState:
    """What `/readyz` says of the feed. `heard` is the monotonic time of the last successful read."""

    live: bool = False
    heard: float = 0.0
    sequenced: float = 0.0
    """The monotonic time at which the sequencer was last known to have read all changes."""
    detail: str = "MongoDB was not reached yet"


class Feed:
    """Keeps a window and a server's copy of the tracked collections up to date."""

    def __init__(self, stores: Stores, window: Window, tracking: Tracking, settings: Settings) -> None:
        self._stores = stores
        self._window = window
        self._tracking = tracking
        self._batch = settings.stream_batch
        self._group: list[StoredEvent] = []
        self._log: Log | None = None
        self.state = FeedState()
        self.followed = asyncio.Event()
        """Set once the log was read for the first time, and from then on."""

    @property
    def log(self) -> Log | None:
        """The log in force, as far as is known; None before the first worker has run."""
        return self._log

    async def run(self, stop: asyncio.Event) -> None:
        """Tail until `stop`. Whatever breaks is opened again, and shown as not live until then."""
        failures = 0
        while not stop.is_set():
            try:
                async with watch(self._stores.log, _PIPELINE, codec=CODEC) as stream:
                    await self._join()
                    failures = 0
                    await self._follow(stream, stop)
            except (Unavailable, Damaged, BehindHorizon) as error:
                failures += 1
                self.state.live, self.state.detail = False, told(error).message
                level = logging.WARNING if isinstance(error, Unavailable) else logging.ERROR
                log.log(level, "the feed is interrupted: %s", error.diagnosis)
                await set_within(stop, backoff(failures, first=0.05, cap=_BACKOFF_CAP))

    async def _follow(self, stream: ChangeStream, stop: asyncio.Event) -> None:
        while not stop.is_set():
            batch = await stream.read(wait=_WAIT, limit=self._batch)
            self._heard()
            rows, settled = [], False
            for change in batch.changes:
                if change["ns"]["coll"] == "events":
                    rows.append(change["fullDocument"])
                elif change["ns"]["coll"] == "heads":
                    # A checkpoint: the sequencer makes them also when there is nothing new, as long as it can read.
                    self.state.sequenced = time.monotonic()
                    settled = True
                else:
                    # Events of the log so far come first, whatever is announced behind them.
                    await self._take(rows)
                    rows = []
                    await self._join()
            await self._take(rows)
            if settled:
                await self._settle()

    def _heard(self) -> None:
        self.state.live, self.state.heard, self.state.detail = True, time.monotonic(), "live"
        self.followed.set()

    async def _join(self) -> None:
        """Take over the log and the registry as they are, and read what the window lacks."""
        self._log = await self._stores.logs.current()
        self._tracking.replace(self._log.id if self._log else None, await self._stores.tracking.read())
        if self._log is None:
            self.state.detail = "there is no log yet: no worker has run"
            return
        tail = await self._stores.events.tail(self._log.id)
        seq = tail.seq if tail else Seq(0)
        floor = (await self._stores.tiers.read(self._log.id)).floor
        if self._window.log != self._log.id or self._window.head < max(floor, seq - _READ_BACK):
            self._group = []
            # What has left MongoDB is left out. The floor never lies inside a transaction.
            far = Seq(max(0, seq - _READ_BACK))
            self._window.start(self._log.id, floor if floor >= far else await self._whole_before(far))
        await self._read_upto(seq)
        await self._settle()
        self._window.wake_all()
        self._heard()

    async def _whole_before(self, seq: Seq) -> Seq:
        """`seq`, or the last one before it that does not lie inside a transaction."""
        if self._log is not None and seq > 0:
            async with aclosing(self._stores.events.read(self._log.id, Seq(seq - 1), seq)) as events:
                async for event in events:
                    if not event.closes and event.group is not None:
                        return Seq(seq - event.group.n)
        return seq

    async def _take(self, rows: Iterable[dict[str, Any]]) -> None:
        """Take events that the stream delivered."""
        fresh: list[StoredEvent] = []
        for row in rows:
            if self._log is None or row["_id"]["l"] != self._log.id:
                continue
            event = await self._stores.events.whole(row)
            expected = self._next + len(fresh)
            if event.seq > expected:
                self._accept(fresh)
                fresh = []
                await self._read_upto(Seq(event.seq - 1))
            if event.seq >= self._next + len(fresh):
                fresh.append(event)
        self._accept(fresh)

    async def _read_upto(self, seq: Seq) -> None:
        if self._log is None or seq < self._next:
            return
        read: list[StoredEvent] = []
        async with aclosing(self._stores.events.read(self._log.id, Seq(self._next - 1), seq)) as events:
            async for event in events:
                read.append(event)
                if len(read) == _READ_AT_ONCE:
                    self._accept(read)
                    read = []
        self._accept(read)

    async def _settle(self) -> None:
        """Pass on the beginning of a transaction of which nothing more comes: a checkpoint stands right behind it.

        (A checkpoint further on says nothing yet: what is between may be the rest.)
        """
        if self._log is None or not self._group:
            return
        checkpoint = await self._stores.logs.read_checkpoint(self._log.id)
        if checkpoint is not None and checkpoint.seq == self._group[-1].seq:
            self._pass_on(len(self._group))

    @property
    def _next(self) -> int:
        return self._window.head + len(self._group) + 1

    def _accept(self, events: list[StoredEvent]) -> None:
        """Pass on events up to the last whole transaction; hold back the rest."""
        held = len(self._group)
        self._group.extend(events)
        # Nothing ends among what was held back before, but for its last event, which the next one may end.
        ends = (count for count in range(len(self._group), max(0, held - 1), -1) if self._ends(count))
        self._pass_on(next(ends, 0))

    def _ends(self, count: int) -> bool:
        """Whether a group ends with the `count`-th event: by its own mark, or because the next has another."""
        event = self._group[count - 1]
        if event.group is None or event.closes:
            return True
        following = self._group[count] if count < len(self._group) else None
        return following is not None and (following.group is None or following.group.id != event.group.id)

    def _pass_on(self, count: int) -> None:
        if count:
            self._window.extend(self._group[:count])
            del self._group[:count]
