"""The versions of the stored formats: one record in the log's database.

It is a document of the collection `deployment`: `{_id: "formats", versions: {events: 1, …}, by: "0.1.0", at}`. Every
process reads it before it writes anything, and again while it runs. A process that does not know a recorded version
ends with `IncompatibleFormat`, exit code 65.

A release that changes a format reads the old version and the new one, and writes the one that is recorded. So old and
new processes run side by side until an operator raises the record, by `eventsync migrate`, once the old ones are gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final

from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import DuplicateKeyError

from eventsync import __version__
from eventsync.concurrency.waiting import set_within
from eventsync.errors import IncompatibleFormat, Unavailable
from eventsync.mongodb.errors import translated

PERIOD: Final = 5.0
"""Seconds between two reads of the record by a process that runs."""

_KEY: Final = {"_id": "formats"}
_NOT_RECORDED: Final = "the versions of the stored formats can't be recorded"
_FIRST: Final = 1
"""The version of every format in a log without a record, which is older than the record."""


@dataclass(frozen=True, slots=True)
class Format:
    """A stored format: what it is, the collections of the log's database that have it, and the versions known here."""

    meaning: str
    collections: Sequence[str] = ()
    oldest: int = _FIRST
    newest: int = _FIRST


FORMATS: Final[Mapping[str, Format]] = MappingProxyType(
    {
        "events": Format("the rows of events", ("events", "event_parts")),
        "log": Format(
            "logs, checkpoints, repairs, tracked collections, tiers, counters, the record of the archive",
            ("logs", "heads", "repairs", "collections", "tiers", "horizons", "tallies", "deployment"),
        ),
        "definitions": Format("declared shapes and rules", ("shapes",)),
        "segments": Format(
            "segments in the archive, their records and touched documents",
            ("segments", "condemned_segments", "touched"),
        ),
        "snapshots": Format(
            "stored snapshots, requests for them, pins", ("snapshots", "snapshot_chunks", "snapshot_requests", "pins")
        ),
        "clients": Format("stored state vectors", ("state_vectors",)),
        "operations": Format("idempotency keys", ("operations",)),
        "leases": Format("leases of jobs and of restores, records of processes", ("leases", "restores", "processes")),
        "credentials": Format("service keys, tickets, revocations", ("service_keys", "tickets", "revocations")),
        "documents": Format("the stamp `_sync` in documents"),
    }
)
"""All stored formats, by name. A test holds them to the collections that a running system makes."""


@dataclass(frozen=True, slots=True)
class RecordedFormats:
    """The recorded versions by format, and the version of eventsync that has recorded them."""

    versions: Mapping[str, int]
    by: str


@dataclass(frozen=True, slots=True)
class Step:
    """A format whose recorded version is to be raised. `before` is None for one that is not recorded."""

    name: str
    before: int | None
    after: int


class FormatStore:
    """Reads the record and, for workers and `eventsync migrate`, writes it."""

    def __init__(self, database: AsyncDatabase[Any], formats: Mapping[str, Format] = FORMATS) -> None:
        """`formats` are those that this process knows."""
        self._deployment: AsyncCollection[Any] = database["deployment"]
        self._logs: AsyncCollection[Any] = database["logs"]
        self._formats = formats

    async def read(self) -> RecordedFormats | None:
        """Return the record, or None if there is none. Raises `Unavailable`, and `IncompatibleFormat` for another form
        of it.
        """
        with translated("the versions of the stored formats can't be read"):
            row = await self._deployment.find_one(_KEY)
        if row is None:
            return None
        versions = row.get("versions")
        if not isinstance(versions, dict) or not all(isinstance(number, int) for number in versions.values()):
            raise IncompatibleFormat("the record of the stored formats can't be read by this version of eventsync")
        return RecordedFormats(versions, str(row.get("by", "unknown")))

    async def check(self) -> None:
        """Raise `IncompatibleFormat` if a recorded version is not known here. Raises `Unavailable`."""
        if (recorded := await self.read()) is not None and (reason := self._incompatible(recorded)):
            raise IncompatibleFormat(reason)

    async def ensure(self) -> None:
        """Record the versions if there is no record. Raises as `check`."""
        if await self.read() is None:
            versions = dict.fromkeys(self._formats, _FIRST) if await self._has_log() else self._newest()
            row = _KEY | {"versions": versions, "by": __version__, "at": datetime.now(UTC)}
            # Another worker may be the first. Then its record counts.
            with translated(_NOT_RECORDED), suppress(DuplicateKeyError):
                await self._deployment.insert_one(row)
        await self.check()

    async def watch(self, stop: asyncio.Event) -> None:
        """Check every `PERIOD` until `stop`. Raises `IncompatibleFormat`."""
        while not await set_within(stop, PERIOD):
            try:
                await self.check()
            except Unavailable:
                continue  # others report it, and nothing can be written meanwhile

    async def pending(self) -> list[Step]:
        """Return what `migrate` would do: nothing for a database without a log. Raises as `check`."""
        recorded = await self.read()
        if recorded is None:
            newest = self._newest() if await self._has_log() else {}
            return [Step(name, None, version) for name, version in newest.items()]
        await self.check()
        known = recorded.versions
        return [
            Step(name, known.get(name), version)
            for name, version in self._newest().items()
            if known.get(name) != version
        ]

    async def migrate(self) -> list[Step]:
        """Raise the recorded versions to the newest ones. Return what was raised. Raises as `check`.

        Running processes that do not know them end within `PERIOD`.
        """
        steps = await self.pending()
        if steps:
            # By `$max`: a later version of eventsync may raise them at the same time.
            raised = {f"versions.{step.name}": step.after for step in steps}
            change = {"$max": raised, "$set": {"by": __version__}, "$currentDate": {"at": True}}
            with translated(_NOT_RECORDED):
                await self._deployment.update_one(_KEY, change, upsert=True)
        return steps

    async def _has_log(self) -> bool:
        with translated("the log can't be read"):
            return await self._logs.find_one({}, {"_id": 1}) is not None

    def _newest(self) -> dict[str, int]:
        return {name: known.newest for name, known in self._formats.items()}

    def _incompatible(self, recorded: RecordedFormats) -> str | None:
        """Return the reason why this process can't use what is stored, or None."""
        for name, version in recorded.versions.items():
            known = self._formats.get(name)
            if known is None or version > known.newest:
                here = f"knows versions up to {known.newest}" if known else "does not know it"
                return (
                    f"what is stored has the format {name!r} in version {version}, and eventsync {__version__} {here}: "
                    f"it was migrated by eventsync {recorded.by}; upgrade this process to that version or a later one"
                )
            if version < known.oldest:
                return (
                    f"what is stored has the format {name!r} in version {version}, and eventsync {__version__} knows "
                    f"versions from {known.oldest} on: run `eventsync migrate` of a version between the two first"
                )
        return None
