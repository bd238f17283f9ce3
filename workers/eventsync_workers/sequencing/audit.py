"""The audit of a log, beside its term: whether the log in MongoDB still is the one that the term appends to.

MongoDB takes an insert into a log that somebody has dropped without complaint. So each look compares a few rows with
what this process knows: a dozen reads by key each `checkpoint_interval`, none of them in the way of an append.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from eventsync.concurrency.waiting import set_within
from eventsync.domain.positions import Seq
from eventsync.domain.replay import Damaged
from eventsync.errors import Unavailable
from eventsync.logging import Alarms
from eventsync.stores.log.events import Fenced, NewEvent
from eventsync.stores.log.logs import Log, LogLost
from eventsync.stores.log.tiers import Tiers
from eventsync.stores.stores import Stores

logger = logging.getLogger(__name__)
_alarms = Alarms(logger)

_PIECE: Final = 10_000
"""Events in which one look searches for a hole: 2 ms of MongoDB's time."""


@dataclass(frozen=True, slots=True)
class Appended:
    """An event that this process knows to be in the log; `event` is all of it, where this term has appended it."""

    seq: Seq
    token: str
    event: NewEvent | None = None


@dataclass(frozen=True, slots=True)
class Known:
    """A term's knowledge of its log: the newest event, None where there is none, and the active collections."""

    newest: Appended | None
    collections: tuple[str, ...]


class Audit:
    """One for a term. `known` is asked at each look; None while the term is taking up the log."""

    def __init__(self, stores: Stores, current: Log, known: Callable[[], Known | None]) -> None:
        self._stores = stores
        self._log = current
        self._known = known
        self._tiers = Tiers()
        self._tallied = Seq(0)
        self._counted = Seq(0)
        self.failure: LogLost | Fenced | None = None
        """The fault of the log, once one is found. Nothing is looked at any more then."""

    async def run(self, over: asyncio.Event, interval: float) -> None:
        """Look every `interval` seconds until the term is `over`, or something is wrong."""
        while self.failure is None and not await set_within(over, interval):
            try:
                await self.look()
            except (LogLost, Fenced) as error:
                self.failure = error
            except Unavailable as error:
                logger.debug("log %s can't be looked at: %s", self._log.id, error.diagnosis)

    async def look(self) -> None:
        """One look. Raises `LogLost`, `Fenced` where another log is in force, and `Unavailable`."""
        if (known := self._known()) is None:
            return
        await self._look_at_record()
        if known.collections and not await self._stores.tracking.is_marked():
            await self._stores.tracking.ask(known.collections)
            raise LogLost("the registry of tracked collections was dropped or emptied")
        if known.newest is not None:
            await self._look_at_newest(known.newest)
        await self._look_at_tiers()
        await self._look_at_tallies()
        if known.newest is not None:
            await self._look_for_holes(known.newest.seq)

    async def _look_at_record(self) -> None:
        current = await self._stores.logs.current()
        if current is None or current.number < self._log.number:
            raise LogLost("the record of the log was deleted")
        if current.id != self._log.id:
            raise Fenced(f"log {current.id} has begun after {self._log.id}")

    async def _look_at_newest(self, newest: Appended) -> None:
        await check_appended(self._stores, self._log, newest)
        if newest.event is None:
            return
        if not await self._stores.events.holds(self._log.id, newest.event):
            raise LogLost(f"event {newest.seq} was overwritten")

    async def _look_at_tiers(self) -> None:
        """Segments, and what was touched, are named as long as events are only there."""
        name, known = self._log.id, self._tiers
        tiers = await self._stores.tiers.read(name)
        if (
            tiers.archived_up_to < known.archived_up_to
            or tiers.horizon < known.horizon
            or tiers.squash_floor < known.squash_floor
        ):
            raise LogLost("the record of where events are was deleted or set back")
        self._tiers = tiers
        for seq in {tiers.horizon + 1, tiers.archived_up_to} if tiers.horizon < tiers.archived_up_to else ():
            found = await self._stores.archive.segments.holding(name, Seq(seq))
            if found is None and await self._lacks(lambda now, seq=seq: now.horizon < seq <= now.archived_up_to):
                raise LogLost(f"no segment is registered that has event {seq}")
        lacks_touched = tiers.squash_floor < tiers.archived_up_to and not await self._stores.archive.touched.any(name)
        if lacks_touched and await self._lacks(lambda now: now.squash_floor < now.archived_up_to):
            raise LogLost("the record of touched documents was dropped or emptied")

    async def _lacks(self, still: Callable[..., bool]) -> bool:
        """Tell whether what was not found has to be there: what is kept no longer may be removed at any time."""
        return still(await self._stores.tiers.read(self._log.id))

    async def _look_at_tallies(self) -> None:
        up_to = await self._stores.counters.counted_up_to(self._log.id)
        if up_to < max(self._tallied, self._tiers.archived_up_to):
            raise LogLost("the tallies of the log were dropped or emptied")
        self._tallied = up_to

    async def _look_for_holes(self, newest: Seq) -> None:
        """Count the next piece of what is in MongoDB. A hole is for readers to tell, and for the operator to decide."""
        after = max(self._counted, self._tiers.archived_up_to)
        up_to = Seq(min(after + _PIECE, newest))
        try:
            await self._stores.gap_check.require(self._log.id, after, up_to, fresh=True)
        except Damaged as error:
            _alarms.tell(
                f"log {self._log.id}: {error.diagnosis}; clients that need them are reset. "
                "`eventsync verify` tells the extent, `eventsync reset-log` begins a new log"
            )
        self._counted = up_to if up_to < newest else Seq(0)


async def check_appended(stores: Stores, current: Log, newest: Appended) -> None:
    """Raise `LogLost` where an event that was appended is not in the log any more, or is another one."""
    token = await stores.events.token(current.id, newest.seq)
    if token is None:
        if newest.seq <= (await stores.tiers.read(current.id)).archived_up_to:
            return
        # A member that has just become primary may not show yet what its predecessor has acknowledged.
        if not await stores.events.reaches(current.id, newest.seq):
            raise LogLost(f"event {newest.seq}, which was appended, is not in the log")
    elif token != newest.token:
        raise LogLost(f"event {newest.seq} is another one than was appended")
