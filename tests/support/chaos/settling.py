"""The end of a run: the last writes, in the log that is there then, and with every client."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from pymongo.errors import PyMongoError

from eventsync.domain.positions import LogId
from eventsync.errors import Unavailable
from eventsync.stores.stores import Stores
from support.chaos.evidence import Violation
from support.chaos.followers import Recording
from support.chaos.observed import last_event
from support.chaos.rig import Rig
from support.waiting import eventually, patience

_PATIENCE = 30.0
"""Seconds without progress, once the faults are over, that are too many."""

_LOGS = 5
"""New logs that begin one after the other, once the faults are over, of which the last is one too many."""

_PAUSE = 0.1
_UNCLEAR = (PyMongoError, Unavailable)

Finish = Callable[[str, str], Awaitable[None]]
"""Write a mark into the document `end` of a collection. Raises `TimeoutError`."""


class StuckError(Exception):
    """An awaited state does not come. `witness` holds what the processes say."""

    def __init__(self, message: str, witness: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.violation = Violation("progress", message, witness)


@dataclass
class Settling:
    """The last writes to `names`, for as many logs as begin meanwhile. `seconds` without progress are too many.

    What was written before a log began is in none of its events: it begins with the collections as they are. So the
    last writes are made again for each new log, as soon as the log has events of these collections.
    """

    rig: Rig
    followers: Sequence[Recording]
    names: Sequence[str]
    finish: Finish
    seconds: float = _PATIENCE
    _begun: list[str] = field(default_factory=list, init=False)
    """The logs that the last writes were made for."""

    def __post_init__(self) -> None:
        self._stores = Stores.of(self.rig.client, self.rig.settings)

    async def run(self) -> list[Violation]:
        """Settle, and end the followers; return what did not come to be."""
        try:
            while True:
                log, seq = await self._sequenced()
                late = await self._late(log, seq)
                if await self._stays(log):
                    return [Violation("progress", message) for message in late]
        except StuckError as error:
            return [error.violation]
        finally:
            for follower in self.followers:
                follower.end()

    async def _late(self, log: str, seq: int) -> list[str]:
        """Describe the followers that do not come to this position in time, or before the next log begins."""
        async with asyncio.TaskGroup() as group:
            pending = {group.create_task(item.arrive(seq, log, seconds=self.seconds)) for item in self.followers}
            while pending and await self._stays(log):
                _, pending = await asyncio.wait(pending, timeout=_PAUSE)
            for task in pending:
                task.cancel()
        return [
            f"{item.name} is at {item.replica.position} and did not come to {log}:{seq}"
            for item in self.followers
            if not item.arrived(seq, log)
        ]

    async def _sequenced(self) -> tuple[str, int]:
        """Return the last position, as soon as the newest log has its last writes. Raises `StuckError`."""
        log, known = await self._written(), 0
        deadline = time.monotonic() + patience(self.seconds)
        while True:
            with suppress(*_UNCLEAR):
                if await self._current() != log:
                    log, known = await self._written(), 0
                    deadline = time.monotonic() + patience(self.seconds)
                seq = await self._seq(log)
                if await self._has_the_last(log):
                    return log, seq
                if seq > known:
                    # A backlog on a busy machine is no fault, as long as it becomes smaller.
                    known, deadline = seq, time.monotonic() + patience(self.seconds)
            if time.monotonic() > deadline:
                raise self._stuck(f"log {log} stands still at {known}, without the last writes")
            await asyncio.sleep(_PAUSE)

    async def _written(self) -> str:
        """Make the last writes for the newest log, which then takes them; return its id. Raises `StuckError`."""
        log = await self._tracking()
        if log not in self._begun:
            self._begun.append(log)
            if len(self._begun) > _LOGS:
                raise self._stuck(f"the log does not stay: there were {', '.join(self._begun)}")
            for name in self.names:
                try:
                    await self.finish(name, self._mark(name, log))
                except TimeoutError as error:
                    raise self._stuck(f"MongoDB takes no writes: {self._mark(name, log)}") from error
        return log

    async def _tracking(self) -> str:
        """Wait until the newest log has events of the collections; return its id. Raises `StuckError`."""
        try:
            log: str = await eventually(self._active, self.seconds, pause=_PAUSE)
        except TimeoutError as error:
            raise self._stuck(f"no log has events of {', '.join(self.names)}: no worker leads") from error
        return log

    async def _active(self) -> str | None:
        """Return the id of the newest log if it has events of the collections."""
        with suppress(*_UNCLEAR):
            log = await self._current()
            active = {item.name for item in await self._stores.tracking.read() if item.log == log}
            return log if active >= set(self.names) else None
        return None

    def _mark(self, name: str, log: str) -> str:
        return f"end of {name} in {log}"

    async def _has_the_last(self, log: str) -> bool:
        for name in self.names:
            row = await last_event(self.rig.client, self.rig.settings.log_db, name, "end", log=log)
            if row is None or row.mark != self._mark(name, log):
                return False
        return True

    async def _seq(self, log: str) -> int:
        tail = await self._stores.events.tail(LogId(log))
        return tail.seq if tail else 0

    async def _stays(self, log: str) -> bool:
        """Return True if no newer log has begun. If that can't be read, none is known."""
        with suppress(*_UNCLEAR):
            return await self._current() == log
        return True

    async def _current(self) -> str | None:
        current = await self._stores.logs.current()
        return current.id if current else None

    def _stuck(self, message: str) -> StuckError:
        return StuckError(message, self.rig.fleet.last_lines())
