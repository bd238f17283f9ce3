"""The sequencer: which log is written, and one term of leadership after another over it."""

from __future__ import annotations

import logging
from collections.abc import Callable

from eventsync.domain.replay import Damaged
from eventsync.errors import TooLarge
from eventsync.mongodb.change_stream import token_time, watch
from eventsync.settings import Settings
from eventsync.stores.history.log_state import NoBase
from eventsync.stores.log.logs import Log, LogLost, ResetAsked, cluster_identity
from eventsync.stores.stores import Stores
from eventsync_workers.sequencing.audit import Appended
from eventsync_workers.sequencing.evidence import Evidence
from eventsync_workers.sequencing.faults import Faults
from eventsync_workers.sequencing.missing_images import StateReader
from eventsync_workers.sequencing.term import Term, pipeline

logger = logging.getLogger(__name__)


class Sequencer:
    """Runs terms. `stopping` is asked between reads: a stop, or a lease that was lost."""

    def __init__(self, stores: Stores, settings: Settings) -> None:
        self._stores = stores
        self._settings = settings
        self._states = StateReader(stores.snapshots)
        self._evidence = Evidence(stores)
        self._faults = Faults()
        self._reached: tuple[Log, Appended] | None = None
        """The newest event that this process knows to be in a log, from whichever term."""
        self._active: tuple[str, ...] = ()
        """The collections that it has sequenced last."""

    async def lead(self, stopping: Callable[[], bool]) -> None:
        """One term. Returns when `stopping`; raises `Fenced`, `StreamInterrupted` or `Unavailable` when it is over.

        A new log begins only where the old one can't be continued: it is lost, damaged, or of another deployment;
        somebody asked for it; or history is lost before the snapshot that a repair starts from is stored.
        """
        while not stopping():
            current = await self._open_log()
            reached = self._reached_in(current)
            term = Term(self._stores, self._settings, self._states, current, self._evidence, reached, self._faults)
            try:
                await term.run(stopping)
            except (LogLost, NoBase, Damaged, TooLarge) as error:
                said = "beginning a new log after" if isinstance(error, ResetAsked) else "ALARM: a new log begins after"
                logger.log(logging.WARNING, "%s %s: %s", said, current.id, error.diagnosis)
                self._active = term.active or self._active
                await self._begin_log(current, error.diagnosis)
            finally:
                self._active = term.active or self._active
                if term.reached is not None:
                    self._reached = current, term.reached

    def _reached_in(self, current: Log) -> Appended | None:
        return self._reached[1] if self._reached is not None and self._reached[0].id == current.id else None

    async def _open_log(self) -> Log:
        current, known = await self._stores.logs.current(), self._reached[0] if self._reached else None
        if known is not None and (current is None or current.number < known.number):
            return await self._begin_log(known, "the record of the log was deleted")
        if current is None:
            return await self._begin_log(None, "the first log")
        if current.reset is not None:
            return await self._begin_log(current, current.reset)
        if (cluster := await cluster_identity(self._stores.data)) != current.cluster:
            return await self._begin_log(current, f"MongoDB is {cluster}, the log belongs to {current.cluster}")
        return current

    async def _begin_log(self, previous: Log | None, reason: str) -> Log:
        """Begin a log, also in a database that was dropped: its collections are asked for again there."""
        await self._stores.ensure_indexes()
        if not await self._stores.tracking.is_marked():
            await self._stores.tracking.ask((*self._active, *self._settings.collections))
        cluster = await cluster_identity(self._stores.data)
        async with watch(self._stores.data, pipeline(())) as stream:
            token = stream.token
        begun = await self._stores.logs.begin(
            previous, cluster=cluster, reason=reason, token=token, time=token_time(token)
        )
        logger.info("log %s begins: %s", begun.id, begun.reason)
        return begun
