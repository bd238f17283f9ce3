"""Barriers: a position at or past every write that was acknowledged before, by whichever server or program.

The order of writes is MongoDB's: a *confirmed* cluster time is past all that was acknowledged, and once the sequencer
has read beyond that time, all of it is in the log. Two things show how far it has read: a checkpoint, which an idle
worker records as well, and the cluster time of the newest event. So a barrier waits for no event of any shape, and it
ends where no worker makes progress, too: with an error, after a bounded time.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Final

from bson.timestamp import Timestamp

from eventsync.concurrency.single_flight import SingleFlight
from eventsync.concurrency.waiting import set_within
from eventsync.domain.positions import Position, Seq
from eventsync.domain.replay import Damaged
from eventsync.errors import Unavailable
from eventsync.mongodb.clocks import confirmed_time
from eventsync.stores.log.logs import Checkpoint, Log
from eventsync.stores.stores import Stores
from eventsync.sync.live.feed import Feed

_LOOK_AGAIN: Final = 0.5
"""Seconds after which a barrier looks at the log also without a notice of the feed, which may be interrupted."""

_RETRY: Final = (1.0, 3.0)
"""Range of the delays after which clients whose barrier has failed come back, in seconds."""


@dataclass(frozen=True, slots=True)
class _Sequenced:
    """The point up to which a log was sequenced at least. It stays true, whenever it is used."""

    log: Log
    checkpoint: Checkpoint
    before: tuple[Timestamp, Seq] | None
    """The time of the newest event, and the seq up to which all changes before that time are; None if not known."""

    def position(self, at: Timestamp) -> Position | None:
        """Return a position at or past all changes up to a cluster time, or None."""
        if self.checkpoint.time >= at:
            return Position(self.log.id, self.checkpoint.seq)
        if self.before is not None and self.before[0] > at:
            return Position(self.log.id, self.before[1])
        return None


class Barriers:
    """The barriers of a server process. All that wait share their reads."""

    def __init__(self, stores: Stores, feed: Feed, timeout: float) -> None:
        """A barrier takes at most `timeout` seconds."""
        self._stores = stores
        self._feed = feed
        self._timeout = timeout
        self._asked = 0
        self._one_at_a_time = asyncio.Lock()
        self._times: SingleFlight[Timestamp] = SingleFlight()
        self._reads: SingleFlight[_Sequenced] = SingleFlight()

    async def position(self) -> Position:
        """Return a position at or past every write that was acknowledged before the call. Raises `Unavailable`."""
        deadline = time.monotonic() + self._timeout
        # Concurrent calls share an answer, but never one that was asked for before the call.
        at = await self._times.fetch(self._asked, self._ask)
        while True:
            # Before the read: what comes meanwhile causes another one.
            noticed = self._feed.noticed
            found = await self._reads.fetch(None, self._read)
            if (position := found.position(at)) is not None:
                return position
            if (left := deadline - time.monotonic()) <= 0:
                raise Unavailable.busy("the worker has not read all changes in time: is it running?", *_RETRY)
            await set_within(noticed, min(left, _LOOK_AGAIN))

    async def _ask(self) -> Timestamp:
        async with self._one_at_a_time:
            self._asked += 1
            return await confirmed_time(self._stores.log, timeout=self._timeout)

    async def _read(self) -> _Sequenced:
        logs = self._stores.logs
        log = await logs.require()
        if log.reset is not None:
            raise Unavailable("a new log is about to begin: is a worker running?")
        try:
            earlier = await logs.read_checkpoint(log.id)
            tail = await self._stores.events.tail(log.id)
            checkpoint = await logs.read_checkpoint(log.id)
        except Damaged as error:
            raise Unavailable("the newest event or checkpoint can't be read").because(error.diagnosis) from error
        if earlier is None or checkpoint is None:
            raise Unavailable("the log has no checkpoint: is a worker running?")
        # Events of a repair have a time before which not all changes are in the log. One that has begun and ended
        # between the two reads has left a checkpoint of that time.
        is_repaired = earlier.repair is None and checkpoint.repair is None
        if tail is None or not is_repaired:
            return _Sequenced(log, checkpoint, None)
        # All events of a transaction have its time, and more of them may follow.
        return _Sequenced(log, checkpoint, (tail.time, Seq(tail.seq - (tail.transaction.n if tail.transaction else 1))))
