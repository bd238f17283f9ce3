"""The feed: one change stream on the event log for a whole server process.

It opens the stream first, then reads the log, then joins the two with a gap check: a seq that does not follow is never
skipped, but the range before it is read from the store. If the store lacks that range, the window restarts behind the
gap, and clients before it are reset.

The feed detects a lost log. If MongoDB holds fewer events than this server has read, or other ones, the log was dropped
or a backup was restored. The server then requests a new log, and serves no new client until it exists.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from eventsync.access.control import AccessControl
from eventsync.concurrency.waiting import backoff, set_within
from eventsync.domain.events import last_whole
from eventsync.domain.positions import START, LogId, Seq
from eventsync.domain.replay import Damaged, DamagedEvents
from eventsync.domain.values.extended_json import CODEC
from eventsync.errors import Unavailable, public_error
from eventsync.logging import Alarms
from eventsync.mongodb.change_stream import Batch, ChangeStream, StreamInterrupted, watch
from eventsync.mongodb.primary import primary_process
from eventsync.settings import Settings
from eventsync.stores.log.definitions import Definitions
from eventsync.stores.log.hot_tier import FOR_CLIENTS, TRACE
from eventsync.stores.log.logs import Log
from eventsync.stores.log.registry import StoredRules
from eventsync.stores.log.stored_event import StoredEvent
from eventsync.stores.log.tiers import BehindHorizon
from eventsync.stores.log.tracking import Tracking
from eventsync.stores.stores import Stores
from eventsync.sync.live.continuity import Continuity
from eventsync.sync.live.delivery_spans import DeliverySpans
from eventsync.sync.live.window import Window

logger = logging.getLogger(__name__)
_alarms = Alarms(logger)

_BACKOFF_CAP = 2.0
_READ_BACK = 1000
"""Events that a server reads into its window at start, for the clients that reconnect then."""

_READ_AT_ONCE = 100

_DELETED = "the event log was deleted"

# Without deletes: the archiver and a TTL index make one for each insert, and none of them matters here.
_GROWING = {"ns.coll": {"$in": ["events", "heads", "revocations"]}, "operationType": {"$ne": "delete"}}
# Their changes are rare. At each of them the feed reads what is stored, and not what the change says.
_REGISTRIES = {"ns.coll": {"$in": ["collections", "logs", "shapes", "service_keys"]}}
_WRITES = frozenset({"insert", "update", "replace"})
_OF_COLLECTIONS = {"operationType": {"$in": ["drop", "rename", "dropDatabase", "invalidate"]}}


def _pipeline(*, traced: bool) -> list[dict[str, Any]]:
    row = FOR_CLIENTS | {TRACE: 1} if traced else FOR_CLIENTS
    return [
        {"$match": {"$or": [_GROWING, _REGISTRIES, _OF_COLLECTIONS]}},
        {"$project": {"operationType": 1, "ns.coll": 1, "documentKey": 1, "fullDocument": row}},
    ]


@dataclass(slots=True)
class FeedState:
    """State of the feed for `/readyz`. `heard` is the monotonic time of the last successful read."""

    live: bool = False
    heard: float = 0.0
    sequenced: float = 0.0
    """Monotonic time of the newest checkpoint: the sequencer makes progress, and may be behind the changes."""
    detail: str = "MongoDB was not reached yet"
    interruptions: int = 0
    """Times that the feed has failed, and was begun again."""


class Feed:
    """Keeps the window and the server's copies of the tracked collections and declared shapes up to date."""

    def __init__(
        self,
        stores: Stores,
        window: Window,
        continuity: Continuity,
        tracking: Tracking,
        definitions: Definitions,
        settings: Settings,
        access: AccessControl | None = None,
    ) -> None:
        """Without `access`, rules are not followed."""
        self._stores = stores
        self._window = window
        self._continuity = continuity
        self._tracking = tracking
        self._definitions = definitions
        self._access = access
        self._rules: StoredRules | None = None
        self._generation = 0
        """Number of times that other rules were read; 0 before the first read."""
        self._batch, self._wait = settings.stream_batch, settings.stream_wait
        self._held: list[StoredEvent] = []
        """Events of a transaction that is not complete yet."""
        self._log: Log | None = None
        self.state = FeedState()
        self.followed = asyncio.Event()
        """Set after the first read of the log."""
        self._noticed = asyncio.Event()
        self._joined = asyncio.Event()
        self._spans = DeliverySpans.of_process()

    @property
    def log(self) -> Log | None:
        """The current log, as of the last read; None before the first worker has run."""
        return self._log

    @property
    def noticed(self) -> asyncio.Event:
        """An event that is set as soon as there are new events, or a checkpoint. Another one then takes its place."""
        return self._noticed

    @property
    def joined(self) -> asyncio.Event:
        """An event that is set as soon as the feed joins another log, for which there is a new event then, or ends."""
        return self._joined

    async def run(self, stop: asyncio.Event) -> None:
        """Follow the log until `stop`. After an error the stream is opened again; the feed is not live until then."""
        failures = 0
        self._continuity.interrupted()
        while not stop.is_set():
            try:
                process = await primary_process(self._stores.log)
                # Opened before the log is read, so that no event falls between the two. Some then come twice; `_take`
                # skips them.
                pipeline = _pipeline(traced=self._spans is not None)
                async with watch(self._stores.log, pipeline, codec=CODEC) as stream:
                    await self._join()
                    if await primary_process(self._stores.log) != process:
                        raise _primary_changed()
                    # The stream, and all that was read since, are of this process.
                    self._follows(process)
                    failures = 0
                    await self._follow(stream, process, stop)
            except (Unavailable, Damaged, BehindHorizon) as error:
                failures += 1
                self.state.interruptions += 1
                self._continuity.interrupted()
                if self._access is not None:
                    self._access.authenticator.interrupted()
                self.state.live, self.state.detail = False, public_error(error).message
                level = logging.WARNING if isinstance(error, Unavailable) else logging.ERROR
                logger.log(level, "the feed is interrupted: %s", error.diagnosis)
                await set_within(stop, backoff(failures, first=0.05, cap=_BACKOFF_CAP))
        self._joined.set()

    def _follows(self, process: str) -> None:
        """Let clients read MongoDB, unless it has lost the log."""
        if self._window.suspended is None:
            self._continuity.follows(process)

    async def _follow(self, stream: ChangeStream, process: str, stop: asyncio.Event) -> None:
        while not stop.is_set():
            batch = await stream.read(wait=self._wait, limit=self._batch)
            # Before the batch is taken: a reader has found another primary, which may have been restored.
            if self._continuity.is_doubted:
                raise _primary_changed()
            self._heard()
            rows, settled, revoked = [], False, list[str]()
            for change in batch.changes:
                kind, name = change["operationType"], change.get("ns", {}).get("coll")
                if kind == "insert" and name == "events":
                    rows.append(change["fullDocument"])
                elif name == "events" and kind in {"update", "replace"}:
                    _alarms.log(f"event {_key_text(change['documentKey']['_id'])} was overwritten by another program")
                elif name == "heads" and kind in _WRITES:
                    # A checkpoint. The sequencer writes one also without new events, as long as it can read.
                    self.state.sequenced = time.monotonic()
                    settled = True
                elif name == "revocations" and kind in _WRITES:
                    revoked.append(change["documentKey"]["_id"])
                elif name == "service_keys" and kind in _WRITES | {"delete"}:
                    await self._load_keys()
                else:
                    # Take the events before this change first: it may end the log.
                    await self._revoke(revoked)
                    await self._take(rows)
                    rows, revoked = [], []
                    await self._join()
                    self._follows(process)
            await self._revoke(revoked)
            await self._take(rows)
            if settled:
                await self._settle()
            self._notify(batch)

    def _notify(self, batch: Batch) -> None:
        if batch.changes:
            self._noticed.set()
            self._noticed = asyncio.Event()

    async def _revoke(self, names: list[str]) -> None:
        """Obey new revocations, before the events that were read with them."""
        if names and self._access is not None:
            await self._access.authenticator.load_revocations(names)
            self._access.changed()

    async def _load_keys(self) -> None:
        if self._access is not None:
            await self._access.authenticator.load_keys()

    async def _follow_rules(self) -> None:
        """Read the rules, the revocations and the service keys. Whatever changes afterwards, the stream brings."""
        if self._access is not None:
            await self._access.load()
            # Before the definitions that the rules are made of: what is taken away is obeyed first.
            stored = (await self._stores.definitions.read()).rules
            if self._generation == 0 or stored != self._rules:
                # Not the number of the apply: a registry that was dropped begins with the same one.
                self._generation += 1
                self._rules = stored
                self._access.replace(None if stored is None else stored.compiled(), self._generation)
            self._access.authenticator.follows()

    def _heard(self) -> None:
        self.state.heard = time.monotonic()
        self.state.live, self.state.detail = self._window.suspended is None, self._window.suspended or "live"
        self.followed.set()

    async def _join(self) -> None:
        """Read the current log, the tracked collections, the declared shapes, and the events that the window lacks."""
        was_live = self.state.live
        # First of all: also while the log is lost, what is taken away is obeyed.
        await self._follow_rules()
        current = await self._stores.logs.current()
        if self._log is not None and (lost := await self._lost(self._log, current)):
            self._suspend(lost)
            return
        if current is not None and (self._log is None or current.id != self._log.id):
            self._joined.set()
            self._joined = asyncio.Event()
        self._log = current
        log_id = self._log.id if self._log else None
        # Before the registry: the window must not get events from after a registry that is not known yet.
        seq = await self._stores.events.head(log_id) if log_id else START
        are_others = self._tracking.replace(log_id, await self._stores.tracking.read())
        if self._definitions.replace(log_id, await self._stores.definitions.read()):
            self._wake_outdated()
        if are_others:
            # Before the next events are published: a client of a collection that was tracked again lacks some of them.
            self._window.wake_all()
        if self._log is None:
            self.state.detail = "there is no log yet: no worker has run"
            return
        # Before any of these events is published: an activation that one of them contradicts is void.
        await self._prove(seq)
        floor = (await self._stores.tiers.read(self._log.id)).archived_up_to
        # Too far behind: the few clients that need the events in between get them from the store.
        if self._window.log != self._log.id or self._window.head < max(floor, seq - _READ_BACK):
            self._held = []
            # What has left MongoDB is left out. The floor never lies inside a transaction.
            far = Seq(max(0, seq - _READ_BACK))
            self._window.start(self._log.id, floor if floor >= far else await self._whole_before(far))
        await self._read_up_to(seq)
        await self._settle()
        if self._window.suspended is not None:
            # Not before the window has the new log, so those that wait for that have to look again.
            self._window.suspended = None
            self._tracking.wake()
        if not was_live:
            self._window.wake_all()
        self._heard()

    async def _lost(self, known: Log, current: Log | None) -> str | None:
        """Return the reason why the followed log is lost; None if it is in MongoDB, or if a new log has replaced it."""
        if current is None:
            return _DELETED
        if current.number < known.number:
            # No worker is left that knew the later log: one that knows it gives the next log a greater number.
            # Without a request, this server would wait for that forever.
            reason = f"log {known.id} was deleted, which was read before: was a backup restored?"
            await self._stores.logs.request_reset(reason, current.id, above=known.number)
            return _DELETED
        if current.id != known.id:
            return None
        if current.reset is not None and self._window.suspended is not None:
            return self._window.suspended
        if lost := await self._taken_back(known):
            await self._stores.logs.request_reset(lost, known.id)
        return lost

    async def _taken_back(self, known: Log) -> str | None:
        """Return the reason why the log contradicts the events read here: it ends earlier, or has another event.

        None if it does not. The events read here were majority-committed, so only a restored backup or a deletion by
        hand can contradict them.
        """
        newest = self._held[-1] if self._held else self._window.newest
        if newest is None or self._window.log != known.id:
            return None
        events, position = self._stores.events, f"{known.id}:{newest.seq}"
        try:
            async with aclosing(events.read(known.id, Seq(newest.seq - 1), newest.seq)) as found:
                async for event in found:
                    if event != newest:
                        return f"event {position} is another one than was read before: was a backup restored?"
        except BehindHorizon:
            return None
        except (Damaged, Unavailable) as error:
            if not await self._holds(known.id, newest.seq):
                return f"the log was taken back behind {position}, which was read before: was a backup restored?"
            if isinstance(error, Unavailable):
                raise
        return None

    async def _holds(self, log_id: LogId, seq: Seq) -> bool:
        """Return True if an event is in MongoDB or archived, be it readable or not."""
        reaches = await self._stores.events.reaches(log_id, seq)
        return reaches or seq <= (await self._stores.tiers.read(log_id)).archived_up_to

    def _suspend(self, reason: str) -> None:
        """Serve no new client until a worker has begun a new log. Live clients get no events until then."""
        if self._window.suspended is None:
            _alarms.log(reason)
        self._window.suspended = reason
        self._continuity.interrupted()
        self.state.live, self.state.detail = False, reason

    async def _whole_before(self, seq: Seq) -> Seq:
        """Return `seq`, or the last seq before it that is not inside a transaction."""
        if self._log is not None and seq > 0:
            try:
                async with aclosing(self._stores.events.read(self._log.id, Seq(seq - 1), seq)) as events:
                    async for event in events:
                        return last_whole(seq, event.transaction)
            except Damaged:
                return seq  # the read of the events behind it handles the damage
        return seq

    async def _take(self, rows: Sequence[dict[str, Any]]) -> None:
        """Append the events that the stream delivered."""
        if self._spans is not None:
            self._spans.arrived(rows)
        if rows and self._access is not None:
            # An event would wake the task of each connection that waits for its turn to be checked, and that takes six
            # times as long as to check it and write to it directly.
            await self._access.until_resumed()
        fresh: list[StoredEvent] = []
        for row in rows:
            if self._log is None or self._window.suspended or not _is_of(self._log, row):
                continue
            try:
                event = await self._stores.events.whole(row)
            except DamagedEvents as error:
                await self._accept(fresh)
                fresh = []
                await self._read_up_to(error.last)
                continue
            expected = self._next + len(fresh)
            if event.seq > expected:
                await self._accept(fresh)
                fresh = []
                await self._read_up_to(Seq(event.seq - 1))
            # The stream repeats events that were read from the log meanwhile.
            if event.seq >= self._next + len(fresh):
                fresh.append(event)
        await self._accept(fresh)

    async def _read_up_to(self, seq: Seq) -> None:
        """Read the events up to `seq` that the window lacks. Behind missing or damaged events the window restarts."""
        while self._log is not None and self._next <= seq:
            try:
                await self._read_on(self._log, seq)
            except Damaged as error:
                last = error.last if isinstance(error, DamagedEvents) else seq
                behind = Seq(min(seq, max(last, self._next)))
                _alarms.log(f"{error.diagnosis}; clients that stand before {self._log.id}:{behind} are reset")
                self._held = []
                self._window.start(self._log.id, behind)
            else:
                return

    async def _read_on(self, current: Log, seq: Seq) -> None:
        read: list[StoredEvent] = []
        async with aclosing(self._stores.events.read(current.id, Seq(self._next - 1), seq)) as events:
            async for event in events:
                read.append(event)
                if len(read) == _READ_AT_ONCE:
                    await self._accept(read)
                    read = []
        await self._accept(read)

    async def _settle(self) -> None:
        """Publish an incomplete transaction if no more of it comes: a checkpoint is right behind its last event.

        A later checkpoint proves nothing: the events in between may be the rest.
        """
        if self._log is None or not self._held:
            return
        checkpoint = await self._stores.logs.read_checkpoint(self._log.id)
        if checkpoint is not None and checkpoint.seq == self._held[-1].seq:
            self._publish(len(self._held))

    @property
    def _next(self) -> int:
        return self._window.head + len(self._held) + 1

    async def _prove(self, up_to: Seq) -> None:
        """Check the activations of declared shapes that an event up to `up_to` confirms or contradicts."""
        while self._log is not None and (seq := self._definitions.unproven) is not None and seq <= up_to:
            if self._definitions.prove(seq, await self._stores.events.known_revision(self._log.id, seq)):
                self._wake_outdated()

    def _wake_outdated(self) -> None:
        """Wake the followers of shapes and views whose definitions are not active any more as they were bound."""
        # Not all others: they would find nothing, and waking ten thousand sessions stops the server for a second.
        self._window.wake(lambda shape: shape.route is not None and not self._definitions.is_current(shape))

    async def _accept(self, events: list[StoredEvent]) -> None:
        """Publish events up to the last complete transaction; hold back the rest."""
        if events:
            await self._prove(events[-1].seq)
        before = len(self._held)
        self._held.extend(events)
        # No transaction ends among the events held back before, except with the last one, if the next is of another.
        ends = (count for count in range(len(self._held), max(0, before - 1), -1) if self._ends(count))
        self._publish(next(ends, 0))

    def _ends(self, count: int) -> bool:
        """Return True if a transaction ends with the `count`-th event: by its number, or as the next is of another."""
        event = self._held[count - 1]
        if event.transaction is None or event.closes:
            return True
        following = self._held[count] if count < len(self._held) else None
        return following is not None and (
            following.transaction is None or following.transaction.id != event.transaction.id
        )

    def _publish(self, count: int) -> None:
        if count:
            events = self._held[:count]
            # Without an await in between: `_next` counts the events of the window and those that are held.
            self._window.extend(events)
            del self._held[:count]
            if self._spans is not None:
                self._spans.published(self._window, events)


def _primary_changed() -> StreamInterrupted:
    return StreamInterrupted("MongoDB's primary has changed")


def _is_of(current: Log, row: dict[str, Any]) -> bool:
    """Return True if a row is an event of a log. Other programs may insert other documents."""
    key = row.get("_id")
    return isinstance(key, dict) and key.get("l") == current.id and isinstance(key.get("n"), int)


def _key_text(key: Any) -> str:
    return f"{key.get('l')}:{key.get('n')}" if isinstance(key, dict) else repr(key)[:100]
