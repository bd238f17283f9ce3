"""Reads the change stream of the active collections, and hands whole transactions to the pipeline."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from bson.raw_bson import RawBSONDocument
from bson.timestamp import Timestamp

from eventsync.mongodb.change_stream import (
    Batch,
    ChangeStream,
    ChangeTooLarge,
    HistoryLost,
    Token,
    token_time,
    watch,
)
from eventsync.settings import Settings
from eventsync.stores.history.log_state import NoBase
from eventsync.stores.log.logs import Log, ResetAsked
from eventsync.stores.stores import Stores
from eventsync_workers.sequencing.activation import ActiveCollections, change_pipeline
from eventsync_workers.sequencing.checkpoint import CheckpointRecorder
from eventsync_workers.sequencing.journal_flusher import JournalFlusher
from eventsync_workers.sequencing.log_writer import LogWriter, NewCheckpoint
from eventsync_workers.sequencing.pipeline import Pipeline
from eventsync_workers.sequencing.repair import Repair
from eventsync_workers.sequencing.shape_activation import ActiveShapes
from eventsync_workers.sequencing.transactions import Transaction, TransactionAssembler, is_document_change

logger = logging.getLogger(__name__)

_NUDGE_WAIT = 0.02
"""Seconds that a read waits when only the cluster time is awaited, which a write of our own has just moved on."""


class CollectionReplaced(HistoryLost):
    """A tracked collection has another content, without a change of any document."""

    code = "collection_replaced"


class TransactionTooLarge(HistoryLost):
    """A transaction is over `group_bytes`."""

    code = "transaction_too_large"


class ReadMode:
    """The way in which changes are read: in batches with their images, one by one, or without images.

    A change that is too large with its images fails the read of its batch. Reading one by one finds it, and it alone
    is read without images.
    """

    def __init__(self, batch: int) -> None:
        self.images = True
        self._batch = batch
        self._read = 0
        """The number of changes that were read from the open stream."""
        self._one_by_one = 0
        """The number of them that are to be read one by one."""

    @property
    def limit(self) -> int:
        """The maximum number of changes of the next read."""
        return 1 if self._is_one_by_one else self._batch

    @property
    def _is_one_by_one(self) -> bool:
        return self._read < self._one_by_one

    def opened(self) -> None:
        """Note that a new stream is open."""
        self._read = 0

    def did(self, count: int) -> None:
        """Note that `count` changes were read."""
        self._read += count

    def failed(self, error: ChangeTooLarge) -> None:
        """Note that the next change is too large. Raises `HistoryLost` if it was read without images."""
        if not self.images:
            raise HistoryLost(error.diagnosis) from error
        if self._is_one_by_one:
            logger.warning("%s; its images are read from the collection", error.diagnosis)
            self.images = False
        # The failed batch began after all that was read. None of that may be appended yet (an open transaction is
        # not), and then the next stream brings it again.
        self._one_by_one = self._read + self._batch

    def passed(self) -> bool:
        """Note that a change was read completely; return True if the stream is to be opened again, with images."""
        if self.images:
            return False
        self.images, self._one_by_one = True, 0
        return True


class StreamReader:
    """Reads one change stream after another, during one term."""

    def __init__(
        self,
        stores: Stores,
        settings: Settings,
        log: Log,
        collections: ActiveCollections,
        shapes: ActiveShapes,
        checkpoints: CheckpointRecorder,
        journal: JournalFlusher,
        stopping: Callable[[], bool],
    ) -> None:
        self._stores = stores
        self._settings = settings
        self._log = log
        self._collections = collections
        self._shapes = shapes
        self._checkpoints = checkpoints
        self._journal = journal
        self._stopping = stopping
        self._mode = ReadMode(settings.stream_batch)
        self._assembler = TransactionAssembler()
        self._writer: LogWriter
        self._used: Timestamp
        self._token: Token
        """The token of the batch that was read last."""

    def resume(self, writer: LogWriter, used: Timestamp) -> None:
        """Write to the log by `writer` from now on. All changes up to the cluster time `used` are in the log."""
        self._writer = writer
        self._used = used

    async def read_from(self, token: Token) -> Token | None:
        """Sequence the changes after `token`. Return the token to open the next stream at, or None when stopping.

        However it ends, all whole transactions that were read before are appended. Raises `ChangeTooLarge` if the log
        is to be resumed at its end, and `HistoryLost`.
        """
        await self._collections.load(self._writer)
        await self._shapes.check_registry(self._collections.names)
        names = ", ".join(self._collections.names) or "nothing yet"
        logger.info("log %s: sequencing %s from %d", self._log.id, names, self._writer.seq)
        pipeline = change_pipeline(self._collections.names)
        opening = watch(self._stores.data, pipeline, after=token, images=self._mode.images)
        async with opening as stream, self._stores.events.connection() as connection, self._journal.running():
            self._mode.opened()
            self._writer.connection = connection
            try:
                # The innermost: at its end it appends all that it has, over the connection.
                async with Pipeline.running(self._writer, self._settings.pipeline_bytes) as running:
                    return await self._read_all(stream, running)
            except ChangeTooLarge as error:
                self._mode.failed(error)
                raise
            finally:
                self._writer.connection = None

    async def _read_all(self, stream: ChangeStream, pipeline: Pipeline) -> Token | None:
        self._assembler = TransactionAssembler()
        self._token = stream.token
        while not self._stopping():
            await self._checkpoint(force=self._is_awaiting_time)
            wait = _NUDGE_WAIT if self._is_awaiting_time else self._settings.stream_wait
            asked = time.time()
            batch = await stream.read(wait=wait, limit=self._mode.limit)
            self._writer.figures.last_read = time.time()
            # A full batch is a backlog, whose age says nothing about the journal.
            if 0 < len(batch.changes) < self._mode.limit:
                self._journal.saw(batch.changes[0]["wallTime"], asked, self._writer.took)
            self._mode.did(len(batch.changes))
            # Before the batch is handed over: what becomes active here applies to its changes.
            if batch.changes and await self._activate_before(batch, pipeline):
                return self._token
            if await self._take(batch, pipeline):
                return batch.token
            self._token = batch.token
            await pipeline.paced()
        # Not the token of the stream, which is beyond the changes of a transaction that is still open.
        return None

    @property
    def _is_awaiting_time(self) -> bool:
        """True while only the cluster time shows that a transaction has ended or that an activation can be made."""
        return self._assembler.is_open or self._collections.pending is not None or self._shapes.pending is not None

    async def _checkpoint(self, *, force: bool) -> None:
        """Record the checkpoint if it is due. Then look for requests: a new log, other collections, other shapes."""
        if not await self._checkpoints.record_if_due(force=force):
            return
        current = await self._stores.logs.current()
        if current is not None and current.id == self._log.id and current.reset is not None:
            raise ResetAsked(current.reset)
        await self._collections.check_registry()
        await self._shapes.check_registry(self._collections.names)

    async def _take(self, batch: Batch, pipeline: Pipeline) -> bool:
        """Take a batch; return True if the stream is to be opened again after it."""
        has_whole = await self._hand_over(batch, pipeline)
        # No checkpoint and no new stream may begin inside a transaction: its first changes would come twice, or never.
        if self._assembler.is_open:
            return False
        if self._is_activation_due(batch.time) or self._shapes.pending is not None:
            await pipeline.drained()
            if self._writer.settles(batch) and await self._activate(batch.token, batch.time):
                return True
        return has_whole and self._mode.passed()

    async def _activate_before(self, batch: Batch, pipeline: Pipeline) -> bool:
        """Activate what is pending between the last batch and this one, if no change of the same time is in both.

        Under load every batch has changes, so waiting for a batch without any could take for ever. Return True if there
        were collections: the stream is to be opened again before this batch.
        """
        if self._collections.pending is None and self._shapes.pending is None:
            return False
        first, settled = batch.changes[0]["clusterTime"], token_time(self._token)
        has_collections = self._is_activation_due(settled) and self._can_open_inside
        if not self._used <= settled < first or not (has_collections or self._shapes.pending is not None):
            return False
        # A transaction that was open has ended: the next change is of a later time.
        if whole := self._assembled((), first):
            await pipeline.put(whole)
        await pipeline.drained()
        self._writer.checkpoint = NewCheckpoint(self._writer.seq, self._token, settled)
        return await self._activate(self._token, settled, with_collections=has_collections)

    @property
    def _can_open_inside(self) -> bool:
        """True if the stream that is to be opened with the pending collections can begin behind any change.

        One without the collection of that change could not: MongoDB has to find the change again.
        """
        pending = self._collections.pending
        return self._mode.images and pending is not None and not pending.has_dropped

    def _is_activation_due(self, time: Timestamp) -> bool:
        """Return True if the stream was read as far as the pending collections need it."""
        return self._collections.pending is not None and time >= self._collections.pending.time

    async def _activate(self, token: Token, time: Timestamp, *, with_collections: bool = True) -> bool:
        """Activate what is pending at a point of the stream up to which all is appended, and the checkpoint known.

        Return True if there were collections.
        """
        has_collections = with_collections and self._is_activation_due(time)
        if has_collections and (names := await self._collections.restarted()):
            # Clients at the log's head may have been there since before the collections were untracked.
            await self._writer.append_restarts(names, token, time)
        # The checkpoint first: it must be no older than the first events of what becomes active.
        checkpoint = await self._checkpoints.record()
        if self._shapes.pending is not None:
            await self._shapes.activate(self._writer, checkpoint.time)
        if has_collections:
            await self._collections.activate(self._writer.seq, checkpoint.time)
            self._used = time
        return has_collections

    async def _hand_over(self, batch: Batch, pipeline: Pipeline) -> bool:
        """Put the changes of a batch into the pipeline, in order. Return True if any transaction was whole."""
        changes, done, has_whole = self._unused(batch.changes), 0, False
        for index, change in enumerate(changes):
            if not is_document_change(change):
                # What happens to a whole collection takes effect between two changes: all before it is appended first.
                if whole := self._assembled(changes[done:index], change["clusterTime"]):
                    await pipeline.put(whole)
                await pipeline.drained()
                await self._collection_changed(change)
                # A stream without the collection could not begin behind this change, only behind its time.
                self._writer.passed(change["_id"]["_data"], change["clusterTime"])
                done, has_whole = index + 1, has_whole or bool(whole)
        whole = self._assembled(changes[done:], batch.time)
        # An empty batch goes through the pipeline as well: behind the events before it, its token makes a checkpoint.
        if whole or not self._assembler.is_open:
            await pipeline.put(whole, None if self._assembler.is_open else batch)
        return has_whole or bool(whole)

    def _unused(self, changes: Sequence[RawBSONDocument]) -> Sequence[RawBSONDocument]:
        """Return the changes that are not in the log yet.

        A high-water mark stands before the changes of its own time. A stream that is opened there again brings the
        changes of new collections at that time, which their checkpoint already includes.
        """
        if not changes or changes[0]["clusterTime"] > self._used:
            return changes  # Cluster times never decrease.
        return [change for change in changes if change["clusterTime"] > self._used]

    def _assembled(self, changes: Sequence[RawBSONDocument], up_to: Timestamp) -> Sequence[Transaction]:
        whole = self._assembler.feed(changes, up_to)
        if self._assembler.bytes > self._settings.group_bytes:
            raise TransactionTooLarge(f"a transaction of more than {self._settings.group_bytes} bytes")
        return whole

    async def _collection_changed(self, change: RawBSONDocument) -> None:
        """Delete all documents of a collection that was dropped or renamed away, unless it was untracked before.

        Before its first snapshot is stored, the log does not know its documents. Then the collection begins again.

        Raises `HistoryLost` for all else, after which the stream does not tell the collections' content.
        """
        kind, name = change["operationType"], change.get("ns", {}).get("coll", "the database")
        onto = change.get("to", {}).get("coll")
        logger.warning("log %s: %s of %s", self._log.id, kind, name)
        active = await self._collections.still_active()
        if kind in {"drop", "rename"} and not {name, onto} & set(active):
            # The log promises nothing of an untracked collection, which may have no snapshot to tell its documents.
            return
        # A rename onto a tracked collection, for instance, replaces its documents without a change of any.
        if kind not in {"drop", "rename"} or onto in active:
            raise CollectionReplaced(f"{kind} of {name}")
        # Without this record, a crash in the middle would leave some of the documents in the log for ever.
        await self._stores.logs.begin_repair(self._log.id, f"{kind} of {name}")
        try:
            await Repair(self._stores, self._writer, self._stopping).empty(name, change)
        except NoBase:
            await self._collections.restart(name)
        await self._stores.logs.end_repair(self._log.id)
        # A collection that is made again under the name begins without images.
        await self._collections.enable_images(active)
