"""Records state vectors in bulk: one write at a time, of all that has come meanwhile, for all clients together.

An acknowledgement waits for company, up to a bound; a write that somebody waits for goes at once.
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

_BACKOFF_CAP: Final = 10.0


class VectorWriter:
    """What is `noted` is stored at most `interval` seconds later; of each client only the newest is kept meanwhile."""

    def __init__(self, store: VectorStore, *, interval: float, most: int, patience: float) -> None:
        """`most` bounds the clients that may wait to be written, `patience` how long somebody waits for a write."""
        self._store = store
        self._interval = interval
        self._patience = patience
        self._most = most
        self._waiting: dict[str, VectorUpdate] = {}
        self._writing: dict[str, VectorUpdate] = {}
        self._watchers: list[asyncio.Future[None]] = []
        self._some = asyncio.Event()
        self._hurry = asyncio.Event()
        self._dropped = 0
        self._closed = False

    def note(self, update: VectorUpdate) -> None:
        """Have an update stored, soon. Never waits; where too many wait already, the update is left out, and said.

        (Nothing is lost with it but that a client which comes back with its id alone gets some events again.)
        """
        if not self._take(update):
            self._dropped += 1
            logger.log(
                logging.WARNING if self._dropped == 1 else logging.DEBUG,
                "%d clients wait for their vector to be stored; more are not taken until MongoDB answers",
                self._most,
            )

    async def store(self, update: VectorUpdate) -> None:
        """Have it stored now; returns when it is. Raises `Unavailable` where it is not: then it may be later."""
        if self._closed:
            raise Unavailable("this server is shutting down")
        if not self._take(update):
            raise Unavailable(f"{self._most} clients wait for their vector to be stored", retry_after=5.0)
        watcher = asyncio.get_running_loop().create_future()
        self._watchers.append(watcher)
        self._hurry.set()
        try:
            await asyncio.wait_for(watcher, self._patience)
        except TimeoutError as error:
            raise Unavailable(f"the vector is not stored after {self._patience:g} s") from error

    def unwritten(self, client_id: str) -> VectorUpdate | None:
        """What of a client is not stored yet."""
        first, second = self._writing.get(client_id), self._waiting.get(client_id)
        return _merged(first, second) if first and second else first or second

    def discard(self, client_id: str) -> None:
        """Forget what waits to be stored of a client."""
        self._waiting.pop(client_id, None)

    async def run(self) -> None:
        """Write until `close`, and then once more what is left."""
        failures = 0
        last = False
        while not last:
            await self._some.wait()
            await set_within(self._hurry, self._pause(failures))
            last = self._closed
            failures = 0 if await self._write() else failures + 1

    def close(self) -> None:
        """End `run` once what waits is written; where that fails, without it."""
        self._closed = True
        self._some.set()
        self._hurry.set()

    def _pause(self, failures: int) -> float:
        return backoff(failures, first=self._interval, cap=_BACKOFF_CAP) if failures else self._interval

    def _take(self, update: VectorUpdate) -> bool:
        known = self._waiting.get(update.client_id)
        if known is None and len(self._waiting) >= self._most:
            return False
        self._waiting[update.client_id] = _merged(known, update) if known else update
        self._some.set()
        return True

    async def _write(self) -> bool:
        """Store what waits. Whether that worked; what did not is waiting again."""
        self._writing, self._waiting = self._waiting, {}
        watchers, self._watchers = self._watchers, []
        self._some.clear()
        self._hurry.clear()
        failure: Unavailable | None = None
        try:
            for some in _cut(list(self._writing.values())):
                await self._store.record(some)
        except Unavailable as error:
            failure = error
            logger.warning("%s; trying again", error.diagnosis)
        if failure is None:
            self._dropped = 0
        else:
            self._put_back()
        self._writing = {}
        for watcher in watchers:
            if not watcher.done():
                watcher.set_result(None) if failure is None else watcher.set_exception(failure)
        return failure is None

    def _put_back(self) -> None:
        for client_id, update in self._writing.items():
            newer = self._waiting.get(client_id)
            self._waiting[client_id] = _merged(update, newer) if newer else update
        if self._waiting:
            self._some.set()


def _merged(older: VectorUpdate, newer: VectorUpdate) -> VectorUpdate:
    vector = dict(older.vector)
    for shape, position in newer.vector.items():
        known = vector.get(shape)
        vector[shape] = position if known is None else max(known, position)
    return replace(newer, transport=newer.transport or older.transport, vector=vector)


def _cut(updates: list[VectorUpdate]) -> Iterable[list[VectorUpdate]]:
    return (updates[start : start + _AT_ONCE] for start in range(0, len(updates), _AT_ONCE))
