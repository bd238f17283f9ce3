"""The newest checkpoint of a log: check it against the events to find the resume point, and record the next one."""

from __future__ import annotations

import time
from dataclasses import dataclass

from bson.timestamp import Timestamp

from eventsync.domain.positions import LogId, Seq
from eventsync.mongodb.change_stream import Token, token_time
from eventsync.mongodb.clocks import cluster_time
from eventsync.stores.log.events import LogHead
from eventsync.stores.log.logs import Checkpoint, Log, LogLost, LogStore
from eventsync.stores.stores import Stores
from eventsync_workers.sequencing.audit import Appended, check_appended, check_beginning
from eventsync_workers.sequencing.evidence import Evidence
from eventsync_workers.sequencing.journal_flusher import JournalFlusher
from eventsync_workers.sequencing.log_writer import LogWriter, NewCheckpoint


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """The end of a log. The change stream continues after `token`, whose last change is of the cluster time `time`."""

    checkpoint: Checkpoint
    head: LogHead | None
    token: Token
    time: Timestamp


async def find_resume_point(stores: Stores, log: Log, evidence: Evidence, appended: Appended | None) -> ResumePoint:
    """Read where `log` is to be continued. `appended` is an event that this process knows to be in it.

    Raises `LogLost` where the log has lost events or was taken back, and `Unavailable`.
    """
    # In one session: a member that has just become primary might otherwise show an older head than the checkpoint's.
    async with stores.log.client.start_session() as session:
        # The checkpoint before the head: events are appended before a checkpoint names them, so in this order a
        # checkpoint beyond the head proves a loss.
        checkpoint = await stores.logs.read_checkpoint(log.id, session)
        head = await stores.events.tail(log.id, session)
    if checkpoint is None:
        raise LogLost("the log has lost its checkpoint")
    seq = head.seq if head else Seq(0)
    if checkpoint.seq > seq:
        raise LogLost(f"the log has lost its events {seq + 1} to {checkpoint.seq}")
    if appended is not None:
        await check_appended(stores, log, appended)
    await check_beginning(stores, log)
    await evidence.check(log, seq)
    point = ResumePoint(checkpoint, head, checkpoint.token, checkpoint.time)
    # Each event carries the token of its change, so a checkpoint may be older than the head.
    if head is not None and checkpoint.seq < head.seq:
        point = ResumePoint(checkpoint, head, head.token, head.time)
    await _check_time(stores, point)
    return point


async def _check_time(stores: Stores, point: ResumePoint) -> None:
    """Raise `LogLost` for a token from the future, on which MongoDB would wait silently and for ever."""
    try:
        at = token_time(point.token)
    except ValueError as error:
        raise LogLost("the log's resume token can't be read") from error
    if at > (now := await cluster_time(stores.data)):
        raise LogLost(f"the log is ahead of MongoDB, which is at {now}")
    if at < point.time:
        raise LogLost(f"the log's resume token is of {at}, before its last change of {point.time}")


class CheckpointRecorder:
    """Records the writer's newest checkpoint, at most once in `interval` seconds unless it is forced."""

    def __init__(self, logs: LogStore, log: LogId, interval: float, journal: JournalFlusher) -> None:
        self._logs = logs
        self._journal = journal
        self._log = log
        self._interval = interval
        self._due = 0.0
        self._writer: LogWriter
        self._last: NewCheckpoint

    def resume(self, writer: LogWriter, last: NewCheckpoint) -> None:
        """Take the checkpoints of `writer` from now on. `last` is the one that is recorded already."""
        self._writer = writer
        self._last = last

    async def record_if_due(self, *, force: bool) -> bool:
        """Record the checkpoint if it is time to or if `force`; return True if it was.

        Also without a new one: the write moves the cluster time on, which shows that an open transaction has ended.
        """
        if not force and time.monotonic() < self._due:
            return False
        self._due = time.monotonic() + self._interval
        await self.record()
        return True

    async def record(self) -> NewCheckpoint:
        """Record the newest checkpoint, and return it."""
        self._last = self._writer.checkpoint or self._last
        self._writer.checkpoint = None
        await self._logs.checkpoint(self._log, *self._last, self._journal.delay)
        return self._last
