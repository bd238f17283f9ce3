"""Stores state vectors in bulk: one write at a time, with all updates of all clients that came in the meantime.

An acknowledgement waits up to a bound for others; an update that a request waits for is written at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from eventsync.concurrency.waiting import backoff, set_within
from eventsync.errors import Unavailable
from eventsync.stores.clients.state_vectors import VectorStore, VectorUpdate

logger = logging.getLogger(__name__)

_AT_ONCE: Final = 1000
"""Clients in one bulk write."""

_AT_ONCE_BYTES: Final = 8 * 1024 * 1024
"""Size of the updates in one bulk write. A single update may exceed it."""

_MAX_WAITING_BYTES: Final = 256 * 1024 * 1024
"""Size of the queued updates."""

_BACKOFF_CAP: Final = 10.0


class VectorWriter:
    """Stores an update at most `interval` seconds after `note`. It queues one merged update a client."""

    def __init__(
        self,
        store: VectorStore,
        *,
        interval: float,
        max_waiting: int,
        timeout: float,
        max_waiting_bytes: int = _MAX_WAITING_BYTES,
    ) -> None:
        """`max_waiting` bounds the clients with a queued update, `timeout` the seconds that `store` waits."""
        self._store = store
        self._interval = interval
        self._timeout = timeout
        self._max_waiting = max_waiting
        self._max_waiting_bytes = max_waiting_bytes
        self._waiting: dict[str, VectorUpdate] = {}
        self._waiting_bytes = 0
        """At least the size of the updates in `_waiting`."""
        self._writing: dict[str, VectorUpdate] = {}
        self._watchers: list[tuple[str, asyncio.Future[None]]] = []
        self._has_updates = asyncio.Event()
        self._write_now = asyncio.Event()
        self._dropped = 0
        self._closed = False

    def note(self, update: VectorUpdate) -> None:
        """Queue an update without waiting. If the queue is full, drop the update and log that.

        The cost of a dropped update: a client that returns with its id alone gets some events again.
        """
        if not self._take(update):
            self._dropped += 1
            logger.log(
                logging.WARNING if self._dropped == 1 else logging.DEBUG,
                "%d clients wait for their vector to be stored; more are not taken until MongoDB answers",
                len(self._waiting),
            )

    async def store(self, update: VectorUpdate) -> None:
        """Store an update now and wait for it. Raises `Unavailable` if it is not stored yet; it may be later."""
        if self._closed:
            raise Unavailable("this server is shutting down")
        if not self._take(update):
            raise Unavailable(f"{len(self._waiting)} clients wait for their vector to be stored", retry_after=5.0)
        watcher = asyncio.get_running_loop().create_future()
        self._watchers.append((update.client_id, watcher))
        self._write_now.set()
        try:
            await asyncio.wait_for(watcher, self._timeout)
        except TimeoutError as error:
            raise Unavailable(f"the vector is not stored after {self._timeout:g} s") from error

    def unwritten(self, client_id: str) -> VectorUpdate | None:
        """Return the update of a client that is not stored yet."""
        first, second = self._writing.get(client_id), self._waiting.get(client_id)
        return self._merged(first, second) if first and second else first or second

    def discard(self, client_id: str) -> None:
        """Drop the queued update of a client."""
        self._waiting.pop(client_id, None)

    async def run(self) -> None:
        """Write until `close`, then once more."""
        failures = 0
        last = False
        while not last:
            await self._has_updates.wait()
            await set_within(self._write_now, self._pause(failures))
            last = self._closed
            failures = 0 if await self._write() else failures + 1

    def close(self) -> None:
        """End `run` after one more write, which may fail."""
        self._closed = True
        self._has_updates.set()
        self._write_now.set()

    def _pause(self, failures: int) -> float:
        return backoff(failures, first=self._interval, cap=_BACKOFF_CAP) if failures else self._interval

    def _take(self, update: VectorUpdate) -> bool:
        known = self._waiting.get(update.client_id)
        if known is None and len(self._waiting) >= self._max_waiting:
            return False
        taken = self._merged(known, update) if known else update
        # The usual case, the same shapes again, needs no more room.
        if known is None or len(taken.vector) != len(known.vector):
            size = self._waiting_bytes + update.size
            if size > self._max_waiting_bytes:
                return False
            self._waiting_bytes = size
        self._waiting[update.client_id] = taken
        self._has_updates.set()
        return True

    async def _write(self) -> bool:
        """Store all queued updates. Return True on success; on failure they are queued again."""
        # All of it before the first await: what comes during the write is for the next one.
        self._writing, self._waiting, self._waiting_bytes = self._waiting, {}, 0
        watchers, self._watchers = self._watchers, []
        self._has_updates.clear()
        self._write_now.clear()
        failure: Unavailable | None = None
        refused: set[str] = set()
        try:
            for some in _cut(list(self._writing.values())):
                refused |= await self._store.record(some)
        except Unavailable as error:
            failure = error
            logger.warning("%s; trying again", error.diagnosis)
        if failure is None:
            self._dropped = 0
        else:
            # A dead MongoDB must not lose what clients have acknowledged. Newer updates win.
            self._put_back(refused)
        self._writing = {}
        for client_id, watcher in watchers:
            _finish(watcher, Unavailable("MongoDB refuses the vector") if client_id in refused else failure)
        return failure is None

    def _put_back(self, refused: set[str]) -> None:
        """Queue the updates again, except those that MongoDB would refuse again."""
        for client_id, update in self._writing.items():
            newer = self._waiting.get(client_id)
            if client_id not in refused:
                self._waiting[client_id] = self._merged(update, newer) if newer else update
        self._waiting_bytes = sum(update.size for update in self._waiting.values())
        if self._waiting:
            self._has_updates.set()

    def _merged(self, older: VectorUpdate, newer: VectorUpdate) -> VectorUpdate:
        vector = dict(older.vector)
        for shape, position in newer.vector.items():
            known = vector.get(shape)
            vector[shape] = position if known is None else position.replacing(known)
        merged = replace(newer, transport=newer.transport or older.transport, vector=vector)
        return merged if len(vector) == len(older.vector) else self._store.bounded(merged)


def _finish(watcher: asyncio.Future[None], failure: Unavailable | None) -> None:
    if not watcher.done():
        watcher.set_result(None) if failure is None else watcher.set_exception(failure)


def _cut(updates: list[VectorUpdate]) -> Iterable[list[VectorUpdate]]:
    some: list[VectorUpdate] = []
    size = 0
    for update in updates:
        size += update.size
        if some and (len(some) == _AT_ONCE or size > _AT_ONCE_BYTES):
            yield some
            some, size = [], update.size
        some.append(update)
    if some:
        yield some
