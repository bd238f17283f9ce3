"""Audits the log of a term: is it still the log that the leader appends to?

MongoDB accepts an insert into a log that somebody has dropped. So an audit compares a few rows with what this process
knows: a dozen reads by key each `checkpoint_interval`, none of which delays an append.
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
from eventsync.stores.log.events import NewEvent
from eventsync.stores.log.logs import Fenced, Log, LogLost
from eventsync.stores.log.tiers import Tiers
from eventsync.stores.stores import Stores

logger = logging.getLogger(__name__)
_alarms = Alarms(logger)

_EVENTS_AT_ONCE: Final = 10_000
"""Number of events that one check searches for a gap: 2 ms of MongoDB's time."""


@dataclass(frozen=True, slots=True)
class Appended:
    """An event that this process knows to be in the log. `event` is the whole event if this term has appended it."""

    seq: Seq
    token: str
    event: NewEvent | None = None


@dataclass(frozen=True, slots=True)
class Known:
    """A term's knowledge of its log: the newest event, if there is one, and the active collections."""

    newest: Appended | None
    collections: tuple[str, ...]


class Audit:
    """The audit of one term. `known` returns None while the term is not yet resumed."""

    def __init__(self, stores: Stores, current: Log, known: Callable[[], Known | None]) -> None:
        self._stores = stores
        self._log = current
        self._known = known
        self._tiers = Tiers()
        self._counted_up_to = Seq(0)
        self._checked_up_to = Seq(0)
        self.failure: LogLost | Fenced | None = None
        """The fault of the log, once one is found. The audit ends with it."""

    async def run(self, over: asyncio.Event, interval: float) -> None:
        """Check the log every `interval` seconds until the term is `over` or a fault is found."""
        while self.failure is None and not await set_within(over, interval):
            try:
                await self.check()
            except (LogLost, Fenced) as error:
                self.failure = error
            except Unavailable as error:
                logger.debug("log %s can't be audited: %s", self._log.id, error.diagnosis)

    async def check(self) -> None:
        """Check the log once. Raises `LogLost`, `Fenced` if another log is in force, and `Unavailable`."""
        # Taken before anything is read: the log may grow meanwhile, but what was known must still be there.
        if (known := self._known()) is None:
            return
        await self._check_record()
        if known.collections and not await self._stores.tracking.is_marked():
            await self._stores.tracking.ask_if_new(known.collections)
            raise LogLost("the registry of tracked collections was dropped or emptied")
        if known.newest is not None:
            await self._check_newest(known.newest)
        # This term may never have seen that events are archived, and then the tiers alone show no loss.
        await check_beginning(self._stores, self._log)
        await self._check_tiers()
        await self._check_counters()
        if known.newest is not None:
            await self._check_gaps(known.newest.seq)

    async def _check_record(self) -> None:
        current = await self._stores.logs.current()
        if current is None or current.number < self._log.number:
            raise LogLost("the record of the log was deleted")
        if current.id != self._log.id:
            raise Fenced(f"log {current.id} has begun after {self._log.id}")

    async def _check_newest(self, newest: Appended) -> None:
        await check_appended(self._stores, self._log, newest)
        if newest.event is None:
            return
        if not await self._stores.events.holds(self._log.id, newest.event):
            raise LogLost(f"event {newest.seq} was overwritten")

    async def _check_tiers(self) -> None:
        """Check that segments and touched documents are still recorded where they replace events in MongoDB."""
        log_id, known = self._log.id, self._tiers
        tiers = await self._stores.tiers.read(log_id)
        if (
            tiers.archived_up_to < known.archived_up_to
            or tiers.horizon < known.horizon
            or tiers.squash_floor < known.squash_floor
        ):
            raise LogLost("the record of where events are was deleted or set back")
        self._tiers = tiers
        for seq in {tiers.horizon + 1, tiers.archived_up_to} if tiers.horizon < tiers.archived_up_to else ():
            found = await self._stores.archive.segments.holding(log_id, Seq(seq))
            # The compactor may have removed it meanwhile, and has raised the horizon before.
            if found is None and await self._lacks(lambda now, seq=seq: now.horizon < seq <= now.archived_up_to):
                raise LogLost(f"no segment is registered that has event {seq}")
        lacks_touched = tiers.squash_floor < tiers.archived_up_to and not await self._stores.archive.touched.any(log_id)
        if lacks_touched and await self._lacks(lambda now: now.squash_floor < now.archived_up_to):
            raise LogLost("the record of touched documents was dropped or emptied")

    async def _lacks(self, still: Callable[..., bool]) -> bool:
        """Return True if what was not found is still needed: what is no longer kept may be removed at any time."""
        return still(await self._stores.tiers.read(self._log.id))

    async def _check_counters(self) -> None:
        up_to = await self._stores.stats.counters.counted_up_to(self._log.id)
        if up_to < max(self._counted_up_to, self._tiers.archived_up_to):
            raise LogLost("the counters of the log were dropped or emptied")
        self._counted_up_to = up_to

    async def _check_gaps(self, newest: Seq) -> None:
        """Check the next events in MongoDB for a gap. Readers report it to clients, and the operator decides on it."""
        after = max(self._checked_up_to, self._tiers.archived_up_to)
        up_to = Seq(min(after + _EVENTS_AT_ONCE, newest))
        try:
            await self._stores.hot.gap_check.require(self._log.id, after, up_to, fresh=True)
        except Damaged as error:
            _alarms.log(
                f"log {self._log.id}: {error.diagnosis}; clients that need them are reset. "
                "`eventsync verify` shows the extent, `eventsync reset-log` begins a new log"
            )
        self._checked_up_to = up_to if up_to < newest else Seq(0)


async def check_beginning(stores: Stores, current: Log) -> None:
    """Raise `LogLost` where the first events in MongoDB, or the record of where the others are, were removed."""
    # The oldest event before `archived_up_to`, which the archiver raises before it removes any: in this order a gap
    # between them is real.
    first = await stores.hot.first(current.id)
    if first is None or first <= (await stores.tiers.read(current.id)).archived_up_to + 1:
        return
    # A member that has just become primary may not show yet what its predecessor has acknowledged. Behind this read,
    # which is linearizable, it does.
    if not await stores.events.reaches(current.id, Seq(first - 1)):
        archived_up_to = (await stores.tiers.read(current.id)).archived_up_to
        if first > archived_up_to + 1:
            raise LogLost(f"the log has lost its events {archived_up_to + 1} to {first - 1}")


async def check_appended(stores: Stores, current: Log, newest: Appended) -> None:
    """Raise `LogLost` if an event that was appended is no longer in the log, or was replaced by another one."""
    token = await stores.events.token(current.id, newest.seq)
    if token is None:
        if newest.seq <= (await stores.tiers.read(current.id)).archived_up_to:
            return
        # A member that has just become primary may not show yet what its predecessor has acknowledged.
        if not await stores.events.reaches(current.id, newest.seq):
            raise LogLost(f"event {newest.seq}, which was appended, is not in the log")
    elif token != newest.token:
        raise LogLost(f"event {newest.seq} is not the one that was appended")
