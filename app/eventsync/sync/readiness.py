"""The readiness of a server, for `/readyz`: its MongoDB, its feed, its archive. That no worker leads is a detail."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

import pymongo

from eventsync.concurrency.ttl_cache import TTLCache
from eventsync.errors import ConfigurationError, EventsyncError
from eventsync.stores.archive.identity import ArchiveIdentity

_AGE: Final = 10.0
"""Seconds for which the archive is not asked again: probes of many load balancers cost it no more than one."""

_TIMEOUT: Final = 3.0
"""Longest time that asking may take, in seconds."""


@dataclass(frozen=True, slots=True)
class ArchiveState:
    """The reason why the archive can't be read, None where it can. Waiting does not mend one that is `lasting`."""

    reason: str | None = None
    lasting: bool = False


class ArchiveWatch:
    """Checks whether this server can read the archive, at most once in a few seconds, however many ask."""

    def __init__(self, identity: ArchiveIdentity) -> None:
        self._identity = identity
        self._memo: TTLCache[ArchiveState] = TTLCache(age=_AGE, most=1)

    async def state(self) -> ArchiveState:
        """Return what the last check has found."""
        return await self._memo.get("archive", self._look)

    async def _look(self) -> ArchiveState:
        try:
            with pymongo.timeout(_TIMEOUT):
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

    `live` is whether this server follows the log, `lag_events` how far it is behind it; `lag_seconds` how long ago the
    log was known to hold every change; `sequencer_live` whether a worker leads and makes progress; `archive` why the
    archive can't be read; `detail` what is wrong, the worst first.
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
    """Return `ready`, `degraded` (the archive does not answer, clients that are far behind wait) or `not_ready`."""
    if not live or archive.lasting:
        return "not_ready"
    return "degraded" if archive.reason else "ready"
