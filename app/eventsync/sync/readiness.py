"""Readiness of a server for `/readyz`: its MongoDB, its feed and its archive, but not whether a worker leads."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from eventsync.concurrency.ttl_cache import TTLCache
from eventsync.errors import ConfigurationError, EventsyncError
from eventsync.mongodb.client import time_limit
from eventsync.stores.archive.identity import ArchiveIdentity

_AGE: Final = 10.0
"""Seconds between two checks of the archive, however many load balancers probe."""

_TIMEOUT: Final = 3.0
"""Timeout of a check, in seconds."""


@dataclass(frozen=True, slots=True)
class ArchiveState:
    """The reason why the archive can't be read; None if it can. A `lasting` one needs an operator."""

    reason: str | None = None
    lasting: bool = False


class ArchiveWatch:
    """Checks periodically whether this server can read the archive."""

    def __init__(self, identity: ArchiveIdentity) -> None:
        self._identity = identity
        self._cache: TTLCache[ArchiveState] = TTLCache(age=_AGE, most=1)

    async def state(self) -> ArchiveState:
        """Return the result of the last check, or of a new one."""
        return await self._cache.get("archive", self._check)

    async def _check(self) -> ArchiveState:
        try:
            with time_limit(_TIMEOUT):
                async with asyncio.timeout(2 * _TIMEOUT):
                    await self._identity.check()
        except ConfigurationError as error:
            return ArchiveState(error.message, lasting=True)
        except EventsyncError as error:
            return ArchiveState(error.message)
        except TimeoutError:
            return ArchiveState(f"the archive does not answer within {2 * _TIMEOUT:g} s")
        return ArchiveState()


@dataclass(frozen=True, slots=True)
class Health:
    """The answer of `/readyz`.

    `live`: this server follows the log, and is `lag_events` behind its head. `lag_seconds`: seconds since the log was
    known to hold every change. `sequencer_live`: a worker leads and makes progress. `archive`: the reason why the
    archive can't be read. `detail`: the worst problem.
    """

    status: str
    live: bool
    sequencer_live: bool
    leader: str | None
    position: str | None
    lag_events: int | None
    lag_seconds: float | None
    archive: str | None
    connections: int
    detail: str


def status(*, live: bool, archive: ArchiveState) -> str:
    """Return `ready`, `not_ready`, or `degraded`: the archive does not answer, and clients far behind must wait."""
    if not live or archive.lasting:
        return "not_ready"
    return "degraded" if archive.reason else "ready"
