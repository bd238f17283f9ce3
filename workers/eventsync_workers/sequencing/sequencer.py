"""The sequencer: decides which log is written, and leads one term after another over it."""

from __future__ import annotations

import logging
from collections.abc import Callable

from eventsync.domain.positions import Seq
from eventsync.domain.replay import Damaged
from eventsync.errors import TooLarge, Unavailable
from eventsync.mongodb.change_stream import token_time, watch
from eventsync.mongodb.client import PinnedClient
from eventsync.settings import Settings
from eventsync.stores.log.logs import Log, LogLost, ResetAsked, cluster_identity
from eventsync.stores.stores import Stores
from eventsync_workers.monitoring.figures import SequencingFigures
from eventsync_workers.sequencing.activation import change_pipeline
from eventsync_workers.sequencing.audit import Appended
from eventsync_workers.sequencing.evidence import Evidence
from eventsync_workers.sequencing.faults import Faults
from eventsync_workers.sequencing.leader import Leader

logger = logging.getLogger(__name__)


def _kind_of(error: LogLost | Damaged | TooLarge) -> str:
    """Return why a log ends, as the metrics count it."""
    return "lost" if isinstance(error, LogLost) else "damaged"


class Sequencer:
    """Runs terms. It asks `stopping` between reads: the worker stops, or has lost its lease."""

    def __init__(
        self, stores: Stores, settings: Settings, client: PinnedClient, figures: SequencingFigures | None = None
    ) -> None:
        """Terms write the log by `client`, which nothing else may use."""
        self._stores = stores
        self._client = client
        self._settings = settings
        self._figures = figures or SequencingFigures()
        self._evidence = Evidence(stores)
        self._faults = Faults()
        self._appended: tuple[Log, Appended] | None = None
        """The newest event that any term of this process knows to be in a log."""
        self._active: tuple[str, ...] = ()
        """The collections that were sequenced last."""

    async def lead(self, stopping: Callable[[], bool]) -> None:
        """Lead until `stopping`. Raises `Fenced`, `StreamInterrupted` or `Unavailable` when the term is over.

        A new log begins only if the old one can't be continued: it is lost, damaged, or of another deployment; or an
        operator requested it.
        """
        while not stopping():
            log = await self._open_log()
            leader = Leader(
                self._stores, self._settings, log, stopping, client=self._client,
                evidence=self._evidence, faults=self._faults, appended=self._appended_to(log), figures=self._figures,
            )  # fmt: skip
            try:
                await self._run(leader, log)
            except (LogLost, Damaged, TooLarge) as error:
                kind = "requested" if isinstance(error, ResetAsked) else _kind_of(error)
                await self._begin_log(log, error.diagnosis, kind)

    async def _run(self, leader: Leader, log: Log) -> None:
        """Run one term, and keep what it knows of the log when it ends."""
        try:
            await leader.run()
        finally:
            # Also after a failure: a new log has to follow the same collections.
            self._active = leader.active or self._active
            if leader.appended is not None:
                self._appended = log, leader.appended

    def _appended_to(self, log: Log) -> Appended | None:
        return self._appended[1] if self._appended is not None and self._appended[0].id == log.id else None

    async def _open_log(self) -> Log:
        current, known = await self._stores.logs.current(), self._appended[0] if self._appended else None
        # A log that this process has written cannot become an older one, unless somebody deleted it or restored a
        # backup.
        if known is not None and (current is None or current.number < known.number):
            return await self._begin_log(known, "the record of the log was deleted", "lost")
        if current is None:
            return await self._begin_log(None, "the first log", "first")
        if current.reset is not None:
            return await self._begin_log(current, current.reset, "requested")
        if (cluster := await cluster_identity(self._stores.data)) != current.cluster:
            reason = f"MongoDB is {cluster}, the log belongs to {current.cluster}"
            return await self._begin_log(current, reason, "foreign")
        return current

    async def _begin_log(self, previous: Log | None, reason: str, kind: str) -> Log:
        """Begin a log, with an alarm if nobody asked for it. Request the collections of a dropped database."""
        # No collection is active from now on, until it is activated in the new log.
        if previous is not None:
            text = "ALARM: a new log begins after" if kind != "requested" else "beginning a new log after"
            logger.warning("%s %s: %s", text, previous.id, reason)
        # First of all the unique index on a log's number, which keeps two workers from both beginning the next log.
        await self._stores.ensure_indexes()
        if not await self._stores.tracking.is_marked():
            await self._stores.tracking.ask_if_new((*self._active, *self._settings.collections))
        cluster = await cluster_identity(self._stores.data)
        # Opened for its token alone: the log begins there, and no collection is active in it yet.
        async with watch(self._stores.data, change_pipeline(())) as stream:
            token = stream.token
        head = None if previous is None else await self._head_of(previous)
        begun = await self._stores.logs.begin(
            previous, cluster=cluster, reason=reason, token=token, time=token_time(token), kind=kind, head=head
        )
        self._figures.logs_begun[kind] += 1
        logger.info("log %s begins: %s", begun.id, begun.reason)
        if previous is not None:
            logger.warning("log %s: %s", begun.id, await self._stores.access_in_force())
        return begun

    async def _head_of(self, log: Log) -> Seq | None:
        """Return the newest event that a log that ends is known to have had, for the history."""
        appended = self._appended_to(log)
        try:
            # Of a log that was dropped this process may know more than MongoDB.
            stored = await self._stores.events.head(log.id)
        except (Unavailable, Damaged):
            stored = Seq(0)
        return max(stored, appended.seq if appended is not None else Seq(0)) or None
