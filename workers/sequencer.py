"""The sequencer: one term of leadership over the log, from its tail on.

It reads one change stream over all tracked collections, converts, and appends in MongoDB's own commit order. It keeps
nothing that matters in memory: any failure ends the term, and the next one starts from the log's tail.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from bson.raw_bson import RawBSONDocument
from bson.timestamp import Timestamp

from app.domain.position import Seq
from app.driver import translated
from app.errors import TooLarge
from app.settings import Settings
from app.stores.changes import Batch, ChangeStream, ChangeTooLarge, HistoryLost, Token, token_time, watch
from app.stores.logs import Log, cluster_identity
from app.stores.stores import Stores
from workers.converter import DOCUMENT_CHANGES
from workers.groups import Grouper
from workers.images import Images, enable_images
from workers.log_writer import LogWriter
from workers.states import StateReader

log = logging.getLogger(__name__)

_NUDGE_WAIT = 0.02
"""Seconds that a read waits when a write of our own has just moved the cluster time on and only that is awaited."""


@dataclass(frozen=True, slots=True)
class _Activation:
    """Collections to activate once the stream has been read up to `time`, from which on their changes have images."""

    names: tuple[str, ...]
    time: Timestamp


class Sequencer:
    """Runs terms. `stopping` is asked between reads: a stop, or a lease that was lost."""

    def __init__(self, stores: Stores, settings: Settings) -> None:
        self._stores = stores
        self._settings = settings
        self._states = StateReader(stores.data)

    async def lead(self, stopping: Callable[[], bool]) -> None:
        """One term. Returns when `stopping`; raises `Fenced`, `StreamInterrupted` or `Unavailable` when it is over."""
        while not stopping():
            current = await self._open_log()
            try:
                await _Term(self._stores, self._settings, self._states, current).run(stopping)
            except (HistoryLost, TooLarge) as error:
                log.warning("beginning a new log after %s: %s", current.id, error.message)
                await self._begin_log(current, error.message)

    async def _open_log(self) -> Log:
        current = await self._stores.logs.current()
        if current is None:
            return await self._begin_log(None, "the first log")
        if (cluster := await cluster_identity(self._stores.data)) != current.cluster:
            return await self._begin_log(current, f"MongoDB is {cluster}, the log belongs to {current.cluster}")
        return current

    async def _begin_log(self, previous: Log | None, reason: str) -> Log:
        cluster = await cluster_identity(self._stores.data)
        async with watch(self._stores.data, _pipeline(())) as stream:
            token = stream.token
        begun = await self._stores.logs.begin(
            previous, cluster=cluster, reason=reason, token=token, time=token_time(token)
        )
        log.info("log %s begins: %s", begun.id, begun.reason)
        return begun


class _Term:
    """The work of one term on one log."""

    def __init__(self, stores: Stores, settings: Settings, states: StateReader, current: Log) -> None:
        self._stores = stores
        self._settings = settings
        self._states = states
        self._log = current
        self._activation: _Activation | None = None
        self._next_look = 0.0
        self._images = True

    async def run(self, stopping: Callable[[], bool]) -> None:
        token = await self._resume()
        while not stopping():
            active = [item.name for item in await self._stores.tracking.read() if item.log == self._log.id]
            await self._enable_images(active)
            log.info(
                "log %s: sequencing %s from %d", self._log.id, ", ".join(active) or "nothing yet", self._writer.seq
            )
            async with watch(self._stores.data, _pipeline(active), after=token, images=self._images) as stream:
                try:
                    reopen = await self._follow(stream, stopping)
                except ChangeTooLarge as error:
                    reopen = await self._without_images(error)
            if reopen is None:
                # Not the stream's own token: what came of an open transaction is read, but not used.
                return
            token = reopen

    async def _without_images(self, error: ChangeTooLarge) -> Token:
        """Go back to what is appended and read one batch without images: they made a change larger than 16 MiB."""
        if not self._images:
            raise HistoryLost(error.message) from error
        log.warning("%s; its states are read from the collection", error.message)
        self._images = False
        return await self._resume()

    async def _resume(self) -> Token:
        """Take up the log at its tail; return the token to read on from."""
        checkpoint = await self._stores.logs.read_checkpoint(self._log.id)
        tail = await self._stores.events.tail(self._log.id)
        if checkpoint is None:
            raise HistoryLost("the log has lost its checkpoint")
        seq = tail.seq if tail else Seq(0)
        if checkpoint.seq > seq:
            raise HistoryLost(f"the log has lost its events {seq + 1} to {checkpoint.seq}")
        self._recorded = (checkpoint.seq, checkpoint.token, checkpoint.time)
        self._used = checkpoint.time
        token, at = checkpoint.token, checkpoint.time
        if tail is not None and checkpoint.seq < tail.seq:
            token, at = tail.token, tail.time
        await self._check_time(token)
        self._writer = LogWriter(self._log.id, self._stores.events, self._states, tail, at)
        return token

    async def _check_time(self, token: Token) -> None:
        """MongoDB waits for ever, in silence, for the time of a token from its future."""
        with translated("MongoDB's time can't be read"):
            answer = await self._stores.data.command("ping")
        if token_time(token) > answer["operationTime"]:
            raise HistoryLost(f"the log is ahead of MongoDB, which is at {answer['operationTime']}")

    async def _follow(self, stream: ChangeStream, stopping: Callable[[], bool]) -> Token | None:
        """Sequence until the stream is to be opened anew; return where to read on then. None when `stopping`."""
        grouper = Grouper()
        while not stopping():
            await self._look(force=grouper.pending or self._activation is not None)
            hurried = grouper.pending or self._activation is not None
            wait = _NUDGE_WAIT if hurried else self._settings.stream_wait
            batch = await stream.read(wait=wait, limit=self._settings.stream_batch)
            if await self._use(batch, grouper):
                return batch.token
        return None

    async def _use(self, batch: Batch, grouper: Grouper) -> bool:
        """Append what is whole. Whether the stream is to be opened anew, right behind this batch."""
        # A high-water mark stands before the changes of its own time: a stream that is opened there anew, with a
        # collection more, brings that collection's. The checkpoint says that they are in the state already.
        changes = [change for change in batch.changes if change["clusterTime"] > self._used]
        self._check(changes)
        if whole := grouper.feed(changes, batch.time):
            await self._writer.append(whole)
        self._bound(grouper)
        if grouper.pending:
            return False
        settled = self._writer.settle(batch)
        if settled and self._activation is not None and batch.time >= self._activation.time:
            await self._activate()
            self._used = batch.time
            return True
        if whole and not self._images:
            self._images = True
            return True
        return False

    async def _look(self, *, force: bool) -> None:
        """Now and then: record the checkpoint, and see whether other collections are asked for.

        The checkpoint is a write, so it also moves the cluster time on, which tells an open transaction's end.
        """
        if not force and time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + self._settings.checkpoint_interval
        await self._checkpoint()
        if self._activation is None:
            asked = await self._stores.tracking.read()
            if names := [item.name for item in asked if item.log != self._log.id]:
                images = await self._enable_images(names)
                if ready := tuple(name for name in names if name not in images.refused):
                    self._activation = _Activation(ready, images.time)

    async def _enable_images(self, names: Sequence[str]) -> Images:
        images = await enable_images(self._stores.data, names, wanted=self._settings.images)
        if await self._stores.tracking.refuse(images.refused):
            for name, reason in images.refused.items():
                log.warning("%s can't be tracked: %s", name, reason)
        return images

    async def _activate(self) -> None:
        if self._activation is None:
            return
        # First the checkpoint: whoever sees the collection active finds one that is no older than its first event.
        await self._checkpoint()
        await self._stores.tracking.activate(self._activation.names, self._log.id, self._writer.seq)
        log.info("log %s: tracking %s from %d", self._log.id, ", ".join(self._activation.names), self._writer.seq)
        self._activation = None

    async def _checkpoint(self) -> None:
        self._recorded = self._writer.checkpoint or self._recorded
        self._writer.checkpoint = None
        await self._stores.logs.checkpoint(self._log.id, *self._recorded)

    def _check(self, changes: Iterable[RawBSONDocument]) -> None:
        """A dropped or renamed collection takes its images with it: the log can't go on from its own state."""
        for change in changes:
            if (kind := change["operationType"]) not in DOCUMENT_CHANGES:
                raise HistoryLost(f"{kind} of {change.get('ns', {}).get('coll', 'the database')}")

    def _bound(self, grouper: Grouper) -> None:
        if grouper.bytes > self._settings.group_bytes:
            raise HistoryLost(f"a transaction of more than {self._settings.group_bytes} bytes")


def _pipeline(names: Sequence[str]) -> list[dict[str, Any]]:
    """The tracked collections' changes, and what may end them: `dropDatabase` names no collection."""
    listed = {"$in": list(names)}
    of_all = {"operationType": {"$in": ["dropDatabase", "invalidate"]}}
    return [{"$match": {"$or": [{"ns.coll": listed}, {"to.coll": listed}, of_all]}}]
