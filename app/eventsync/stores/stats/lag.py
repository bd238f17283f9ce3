"""The lag of the log: the number of committed changes that are not events yet.

They are counted by a separate change stream, opened where the sequencer would read on, with a limit in count and time.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from pymongo.asynchronous.database import AsyncDatabase

from eventsync.domain.positions import LogId
from eventsync.domain.replay import Damaged
from eventsync.domain.values.extended_json import CODEC
from eventsync.mongodb.change_stream import DOCUMENT_CHANGES, ChangeTooLarge, HistoryLost, Token, watch
from eventsync.mongodb.clocks import cluster_time, wall_time
from eventsync.stores.log.events import EventStore
from eventsync.stores.log.logs import Checkpoint, LogStore
from eventsync.stores.log.tracking import TrackingStore

MAX_CHANGES: Final = 10_000
"""The limit for counting changes."""

_SECONDS: Final = 3.0
"""The limit for counting, in seconds."""

_BATCH: Final = 1000
_WAIT: Final = 0.05


@dataclass(frozen=True, slots=True)
class Lag:
    """The committed `changes` that are not in the log. With `more`, the count was cut off. The oldest is `seconds` old.

    `unknown` is the reason if the lag cannot be determined.
    """

    changes: int = 0
    seconds: float = 0.0
    more: bool = False
    unknown: str | None = None


class LagReader:
    """Counts changes. (A delete through the API is two changes, which become one event.)"""

    def __init__(
        self, database: AsyncDatabase[Any], events: EventStore, logs: LogStore, tracking: TrackingStore
    ) -> None:
        self._database = database
        self._events = events
        self._logs = logs
        self._tracking = tracking

    async def read(self, log: LogId) -> Lag:
        """Return the lag of a log. Raises `Unavailable`."""
        try:
            return await self._read(log)
        except Damaged as error:
            return Lag(unknown=error.message)

    async def _read(self, log: LogId) -> Lag:
        checkpoint = await self._logs.read_checkpoint(log)
        if checkpoint is None:
            return Lag(unknown="the log has no checkpoint")
        if checkpoint.repair is not None:
            return Lag(unknown=f"the log is being repaired: {checkpoint.repair}")
        # Read after the checkpoint, so that the head is never behind it.
        tail = await self._events.tail(log)
        token = tail.token if tail is not None and tail.seq > checkpoint.seq else checkpoint.token
        names = [item.name for item in await self._tracking.active(log)]
        try:
            return await self._count(names, token, checkpoint)
        except HistoryLost as error:
            return Lag(unknown=f"the next worker that leads has to repair the log: {error.message}")
        except ChangeTooLarge as error:
            return Lag(unknown=error.message)

    async def _count(self, names: Sequence[str], token: Token, checkpoint: Checkpoint) -> Lag:
        now, up_to = await wall_time(self._database), await cluster_time(self._database)
        count, oldest, whole = 0, None, False
        deadline = time.monotonic() + _SECONDS
        async with watch(self._database, _pipeline(names), after=token, codec=CODEC) as stream:
            while not whole and count < MAX_CHANGES and time.monotonic() < deadline:
                batch = await stream.read(wait=_WAIT, limit=_BATCH)
                for change in batch.changes:
                    # As in the sequencer: a high-water mark comes before the changes of its own cluster time.
                    if change["clusterTime"] > checkpoint.time:
                        count, oldest = count + 1, oldest or change["wallTime"]
                whole = batch.time >= up_to and len(batch.changes) < _BATCH
        seconds = max(0.0, (now - oldest).total_seconds()) if oldest else 0.0
        return Lag(count, seconds, more=not whole)


def _pipeline(names: Sequence[str]) -> list[dict[str, Any]]:
    match = {"ns.coll": {"$in": list(names)}, "operationType": {"$in": list(DOCUMENT_CHANGES)}}
    return [{"$match": match}, {"$project": {"clusterTime": 1, "wallTime": 1}}]
