"""One term of leadership over a log: from its tail on, along one change stream over all tracked collections.

A term keeps nothing that matters in memory: any failure ends it, and the next one starts from the log's tail.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from bson.raw_bson import RawBSONDocument
from bson.timestamp import Timestamp

from eventsync.domain.positions import Seq
from eventsync.errors import EventsyncError
from eventsync.mongodb.change_stream import Batch, ChangeStream, ChangeTooLarge, HistoryLost, Token, token_time, watch
from eventsync.mongodb.clocks import cluster_time
from eventsync.mongodb.errors import Barred
from eventsync.settings import Settings
from eventsync.stores.log.logs import Log, LogLost, ResetAsked
from eventsync.stores.snapshots.live_snapshots import ReadRefused
from eventsync.stores.stores import Stores
from eventsync_workers.sequencing.audit import Appended, Audit, Known, check_appended
from eventsync_workers.sequencing.evidence import Evidence
from eventsync_workers.sequencing.faults import Faults
from eventsync_workers.sequencing.images import Images, enable_images
from eventsync_workers.sequencing.log_writer import LogWriter
from eventsync_workers.sequencing.missing_images import CollectionBarred, StateReader
from eventsync_workers.sequencing.pipeline import Pipeline
from eventsync_workers.sequencing.repair import BrokenOff, Repair
from eventsync_workers.sequencing.transactions import Grouper, is_of_document

logger = logging.getLogger(__name__)

_NUDGE_WAIT = 0.02
"""Seconds that a read waits when a write of our own has just moved the cluster time on and only that is awaited."""

_REPAIR_PAUSE = 5.0
"""Seconds within which a second repair would not help either: the term ends, and the next one begins after a pause."""


@dataclass(frozen=True, slots=True)
class _Activation:
    """Collections to activate once the stream has been read up to `time`, from which on their changes have images.

    None at all where there only are some to read no longer: the stream then is opened anew, too.
    """

    names: tuple[str, ...]
    time: Timestamp


class Term:
    """The work of one term on one log."""

    def __init__(
        self,
        stores: Stores,
        settings: Settings,
        states: StateReader,
        current: Log,
        evidence: Evidence | None = None,
        reached: Appended | None = None,
        faults: Faults | None = None,
    ) -> None:
        """`reached` is an event of this log that an earlier term of this process knew to be there, `faults` what they
        have found wrong with single collections.
        """
        self._faults = faults or Faults()
        self._evidence = evidence or Evidence(stores)
        self._reached = reached
        self._writer: LogWriter
        self._taken_up = False
        self._stores = stores
        self._settings = settings
        self._states = states
        self._log = current
        self._active: list[str] = []
        self._activation: _Activation | None = None
        self._reasons: dict[str, str] = {}
        """The recorded reasons against collections that have been looked at again because of them."""
        self._next_look = 0.0
        self._next_repair = 0.0
        self._images = True
        self._read = 0
        """How many changes were read from the stream that is open."""
        self._singly = 0
        """How many of them are to be read one by one: one is too large with its images."""

    async def run(self, stopping: Callable[[], bool]) -> None:
        """Sequence until `stopping`. Raises what ends the term; of that, `LogLost` and `NoBase` end the log."""
        audit = Audit(self._stores, self._log, self._known)

        def over() -> bool:
            return stopping() or audit.failure is not None

        async with self._audited(audit):
            await self._sequence(over)
        if audit.failure is not None:
            raise audit.failure

    async def _sequence(self, stopping: Callable[[], bool]) -> None:
        try:
            token: Token | None = await self._resume(stopping)
            while token is not None and not stopping():
                try:
                    token = await self._read_from(token, stopping)
                except HistoryLost as error:
                    token = await self._repair(error.diagnosis, stopping)
                except CollectionBarred as error:
                    await self._exclude(error.collection, error)
                    token = await self._resume(stopping)
                except ReadRefused as error:
                    await self._confine(error)
                    token = await self._resume(stopping)
        except BrokenOff as error:
            # Its mark stands: whoever leads next repairs.
            logger.info("log %s: %s", self._log.id, error.diagnosis)

    @asynccontextmanager
    async def _audited(self, audit: Audit) -> AsyncIterator[None]:
        """Have the log looked at while the block runs."""
        over = asyncio.Event()
        looking = asyncio.create_task(audit.run(over, self._settings.checkpoint_interval), name="audit the log")
        try:
            yield
        finally:
            over.set()
            await looking

    @property
    def reached(self) -> Appended | None:
        """The newest event that this term, or one before it, knows to be in the log."""
        if not self._taken_up or self._writer.token is None:
            return self._reached
        return Appended(self._writer.seq, self._writer.token, self._writer.newest)

    @property
    def active(self) -> tuple[str, ...]:
        """The collections that are sequenced."""
        return tuple(self._active)

    def _known(self) -> Known | None:
        return Known(self.reached, self.active) if self._taken_up else None

    # --- where to read on -----------------------------------------------------------------------------------------

    async def _resume(self, stopping: Callable[[], bool]) -> Token:
        """Take up the log at its tail; return the token to read on from. Raises `BrokenOff` when `stopping`."""
        # In one session: a member that has just become primary might else show an older tail than the checkpoint's.
        async with self._stores.log.client.start_session() as session:
            checkpoint = await self._stores.logs.read_checkpoint(self._log.id, session)
            tail = await self._stores.events.tail(self._log.id, session)
        if checkpoint is None:
            raise LogLost("the log has lost its checkpoint")
        seq = tail.seq if tail else Seq(0)
        if checkpoint.seq > seq:
            raise LogLost(f"the log has lost its events {seq + 1} to {checkpoint.seq}")
        if self.reached is not None:
            await check_appended(self._stores, self._log, self.reached)
        await self._check_beginning(seq)
        await self._evidence.check(self._log, seq)
        self._recorded = (checkpoint.seq, checkpoint.token, checkpoint.time)
        self._used = checkpoint.time
        token, at = checkpoint.token, checkpoint.time
        if tail is not None and checkpoint.seq < tail.seq:
            token, at = tail.token, tail.time
        await self._check_time(token, at)
        self._writer = LogWriter(self._log.id, self._stores.events, self._states, tail, at, self._stores.offload)
        self._taken_up = True
        if checkpoint.repair is not None:
            return await self._repair(checkpoint.repair, stopping)
        return token

    async def _check_time(self, token: Token, at: Timestamp) -> None:
        """MongoDB waits for ever, in silence, for the time of a token from its future."""
        try:
            time = token_time(token)
        except ValueError as error:
            raise LogLost("the log does not say where to read on: its token can't be read") from error
        if time > (now := await cluster_time(self._stores.data)):
            raise LogLost(f"the log is ahead of MongoDB, which is at {now}")
        if time < at:
            raise LogLost(f"the log does not say where to read on: its token is of {time}, its change of {at}")

    async def _check_beginning(self, seq: Seq) -> None:
        """Raise `LogLost` where the first events in MongoDB, or the record of where the others are, were removed."""
        archived_up_to, first = (
            (await self._stores.tiers.read(self._log.id)).archived_up_to,
            await self._stores.hot.first(self._log.id),
        )
        if seq and first is not None and first > archived_up_to + 1:
            archived_up_to = (
                await self._stores.tiers.read(self._log.id)
            ).archived_up_to  # it may have been raised in between
            if first > archived_up_to + 1:
                raise LogLost(f"the log has lost its events {archived_up_to + 1} to {first - 1}")

    async def _repair(self, reason: str, stopping: Callable[[], bool]) -> Token:
        """Make the log say what the collections are now, and go on from there. Raises `BrokenOff` when `stopping`."""
        if time.monotonic() < self._next_repair:
            raise HistoryLost(reason)
        logger.warning("log %s: history is lost, repairing it: %s", self._log.id, reason)
        await self._take_active()
        async with watch(self._stores.data, pipeline(self._active)) as stream:
            token = stream.token
        # A new stream begins just behind the cluster time: this write brings that time about, so it can be read at.
        await self._stores.logs.begin_repair(self._log.id, reason)
        repair = Repair(self._stores, self._writer)
        for name in self._active:
            try:
                await repair.compared(name, token, stopping)
            except Barred as error:
                await self._exclude(name, error)
            except ReadRefused as error:
                await self._confine(error)
        await self._stores.logs.checkpoint(self._log.id, self._writer.seq, token, token_time(token))
        await self._stores.logs.end_repair(self._log.id)
        logger.warning("log %s: repaired by %d events, up to %d", self._log.id, repair.events, self._writer.seq)
        self._next_repair = time.monotonic() + _REPAIR_PAUSE
        return await self._resume(stopping)

    async def _take_active(self) -> None:
        """Take over which collections are tracked, and see that they keep images."""
        active = [item.name for item in await self._stores.tracking.read() if item.log == self._log.id]
        images = await self._enable_images(active)
        if images.impossible:
            # Made a capped collection, say, or replaced by a view, by somebody. All others are to go on.
            await self._stores.tracking.deactivate(images.impossible)
        if active := [name for name in active if name not in images.impossible]:
            # Before there is anything that the audit would miss it for.
            await self._stores.tracking.mark()
        self._active = active

    async def _exclude(self, name: str, error: EventsyncError) -> None:
        """Go on without a collection that can't be followed any more. Raises `error` where it still can."""
        if name not in await self._judged([name]):
            raise error

    async def _confine(self, error: ReadRefused) -> None:
        """Go on without a collection whose reads are refused again and again. Raises `error` before that."""
        if not self._faults.lasts(error):
            raise error
        logger.error("ALARM: %s; it is not followed for now, the others go on", error.diagnosis)
        await self._stores.tracking.refuse({error.collection: error.message})
        await self._stores.tracking.deactivate([error.collection])

    async def _judged(self, names: Sequence[str]) -> frozenset[str]:
        """Look at active collections again; those that can't be followed any more are active no longer."""
        images = await self._enable_images(names)
        await self._stores.tracking.accept(set(names) - images.refused.keys())
        await self._stores.tracking.deactivate(images.impossible)
        return images.impossible

    # --- reading --------------------------------------------------------------------------------------------------

    async def _read_from(self, token: Token, stopping: Callable[[], bool]) -> Token | None:
        """Open the stream behind `token` and sequence; return where to open it anew, None when `stopping`."""
        await self._take_active()
        names = ", ".join(self._active) or "nothing yet"
        logger.info("log %s: sequencing %s from %d", self._log.id, names, self._writer.seq)
        async with watch(self._stores.data, pipeline(self._active), after=token, images=self._images) as stream:
            self._read = 0
            try:
                return await self._follow(stream, stopping)
            except ChangeTooLarge as error:
                return await self._without_images(error, stopping)

    async def _without_images(self, error: ChangeTooLarge, stopping: Callable[[], bool]) -> Token | None:
        """Go back to what is appended. First one by one, to find the change; then it alone is read without images."""
        if not self._images:
            raise HistoryLost(error.diagnosis) from error
        if self._is_careful:
            logger.warning("%s; its states are read from the collection", error.diagnosis)
            self._images = False
        # The failed read began behind what was read: that far, too, for none of it need be appended (an open
        # transaction is not), and then it all comes again.
        self._singly = self._read + self._settings.stream_batch
        return await self._resume(stopping)

    async def _follow(self, stream: ChangeStream, stopping: Callable[[], bool]) -> Token | None:
        """Sequence until the stream is to be opened anew; return where to read on then. None when `stopping`.

        However it ends, all that was read and is whole is appended, but for what is behind a failure.
        """
        async with Pipeline.running(self._writer, self._settings.pipeline_bytes) as pipeline:
            return await self._read_all(stream, pipeline, stopping)

    async def _read_all(self, stream: ChangeStream, pipeline: Pipeline, stopping: Callable[[], bool]) -> Token | None:
        grouper = Grouper()
        while not stopping():
            await self._look(force=grouper.pending or self._activation is not None)
            hurried = grouper.pending or self._activation is not None
            wait = _NUDGE_WAIT if hurried else self._settings.stream_wait
            batch = await stream.read(wait=wait, limit=1 if self._is_careful else self._settings.stream_batch)
            self._read += len(batch.changes)
            if await self._use(batch, grouper, pipeline, stopping):
                return batch.token
        # Not the stream's own token: what came of an open transaction is read, but not used.
        return None

    async def _use(self, batch: Batch, grouper: Grouper, pipeline: Pipeline, stopping: Callable[[], bool]) -> bool:
        """Hand on what is whole. Whether the stream is to be opened anew, right behind this batch."""
        found = await self._hand_on(batch, grouper, pipeline, stopping)
        if grouper.pending:
            return False
        if self._activation is not None and batch.time >= self._activation.time:
            await pipeline.drained()
            if self._writer.settles(batch):
                await self._activate()
                self._used = batch.time
                return True
        if found and not self._images:
            self._images, self._singly = True, 0
            return True
        return False

    async def _hand_on(self, batch: Batch, grouper: Grouper, pipeline: Pipeline, stopping: Callable[[], bool]) -> bool:
        """Put the changes of a batch into the pipeline, in order. Whether any group was whole."""
        changes, done, found = self._unused(batch.changes), 0, False
        for index, change in enumerate(changes):
            if not is_of_document(change):
                if whole := self._grouped(grouper, changes[done:index], change["clusterTime"]):
                    await pipeline.put(whole)
                await pipeline.drained()
                await self._collection_changed(change, stopping)
                done, found = index + 1, found or bool(whole)
        whole = self._grouped(grouper, changes[done:], batch.time)
        if whole or not grouper.pending:
            await pipeline.put(whole, None if grouper.pending else batch)
        return found or bool(whole)

    @property
    def _is_careful(self) -> bool:
        """Whether changes are read one by one, to find the one that is too large."""
        return self._read < self._singly

    def _unused(self, changes: Sequence[RawBSONDocument]) -> Sequence[RawBSONDocument]:
        """A high-water mark stands before the changes of its own time: a stream that is opened there anew, with a
        collection more, brings that collection's. The checkpoint says that they are in the state already.
        """
        if not changes or changes[0]["clusterTime"] > self._used:
            return changes  # their times never go back
        return [change for change in changes if change["clusterTime"] > self._used]

    def _grouped(
        self, grouper: Grouper, changes: Sequence[RawBSONDocument], up_to: Timestamp
    ) -> Sequence[Sequence[RawBSONDocument]]:
        whole = grouper.feed(changes, up_to)
        if grouper.bytes > self._settings.group_bytes:
            raise HistoryLost(f"a transaction of more than {self._settings.group_bytes} bytes")
        return whole

    async def _collection_changed(self, change: RawBSONDocument, stopping: Callable[[], bool]) -> None:
        """A drop, or a renaming away: all documents are gone at once. What else there is ends what the stream says."""
        kind, name = change["operationType"], change.get("ns", {}).get("coll", "the database")
        logger.warning("log %s: %s of %s", self._log.id, kind, name)
        if kind not in {"drop", "rename"} or change.get("to", {}).get("coll") in self._active:
            raise HistoryLost(f"{kind} of {name}")
        await self._stores.logs.begin_repair(self._log.id, f"{kind} of {name}")
        await Repair(self._stores, self._writer).emptied(name, change, stopping)
        await self._stores.logs.end_repair(self._log.id)
        await self._enable_images(self._active)

    # --- now and then ---------------------------------------------------------------------------------------------

    async def _look(self, *, force: bool) -> None:
        """Now and then: record the checkpoint, and see what is asked for: other collections, another log.

        The checkpoint is a write, so it also moves the cluster time on, which tells an open transaction's end.
        """
        if not force and time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + self._settings.checkpoint_interval
        await self._checkpoint()
        current = await self._stores.logs.current()
        if current is not None and current.id == self._log.id and current.reset is not None:
            raise ResetAsked(current.reset)
        if self._activation is None:
            await self._look_at_tracking()

    async def _look_at_tracking(self) -> None:
        listed = await self._stores.tracking.read()
        new = [item.name for item in listed if item.log != self._log.id and not self._faults.confines(item.name)]
        dropped = set(self._active) - {item.name for item in listed}
        if dropped and not await self._stores.tracking.is_marked():
            raise LogLost("the registry of tracked collections was dropped or emptied")
        dropped |= await self._judged_anew({item.name: item.refused for item in listed if item.log == self._log.id})
        if new or dropped:
            images = await self._enable_images(new)
            if (ready := tuple(name for name in new if name not in images.refused)) or dropped:
                self._activation = _Activation(ready, images.time)

    async def _judged_anew(self, active: Mapping[str, str | None]) -> frozenset[str]:
        """Look at each collection for which a new reason was recorded, by the snapshotter, say."""
        suspects = {name: reason for name, reason in active.items() if reason and self._reasons.get(name) != reason}
        self._reasons |= suspects
        return await self._judged(list(suspects)) if suspects else frozenset()

    async def _enable_images(self, names: Sequence[str]) -> Images:
        images = await enable_images(self._stores.data, names, wanted=self._settings.images)
        if await self._stores.tracking.refuse(images.refused):
            for name, reason in images.refused.items():
                logger.warning("%s can't be tracked: %s", name, reason)
        return images

    async def _activate(self) -> None:
        if self._activation is None:
            return
        # First the checkpoint: whoever sees the collection active finds one that is no older than its first event.
        await self._checkpoint()
        if names := self._activation.names:
            await self._stores.tracking.activate(names, self._log.id, self._writer.seq, self._recorded[2])
            logger.info("log %s: tracking %s from %d", self._log.id, ", ".join(names), self._writer.seq)
        self._activation = None

    async def _checkpoint(self) -> None:
        self._recorded = self._writer.checkpoint or self._recorded
        self._writer.checkpoint = None
        await self._stores.logs.checkpoint(self._log.id, *self._recorded)


def pipeline(names: Sequence[str]) -> list[dict[str, Any]]:
    """The tracked collections' changes, and what may end them: `dropDatabase` names no collection."""
    listed = {"$in": list(names)}
    of_all = {"operationType": {"$in": ["dropDatabase", "invalidate"]}}
    return [{"$match": {"$or": [{"ns.coll": listed}, {"to.coll": listed}, of_all]}}]
