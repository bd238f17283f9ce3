"""The identity of the archive: a check that all processes use the same one.

The archive contains a mark, a small object with a random id, and MongoDB records that id. A process with another
archive would write segments where no other process finds them, or would never find the segments of others. An archive
keeps its mark when it is moved, so its URL may change and may differ between processes.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from typing import Any, Final

from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import DuplicateKeyError

from eventsync.domain.positions import LogId
from eventsync.errors import ConfigurationError, Unavailable
from eventsync.mongodb.errors import translated
from eventsync.mongodb.leases import LeaseStore
from eventsync.stores.archive.objects import ObjectMissing, Objects, StorageRefused
from eventsync.stores.archive.segments import SegmentStore

MARK: Final = "eventsync-archive.json"
"""The path of the mark, at the archive's root."""

_MARK_BYTES: Final = 1024
_KEY: Final = {"_id": "archive"}


@dataclass(frozen=True, slots=True)
class RecordedArchive:
    """The recorded archive: the `id` in its mark, and the `url` that the recording worker used."""

    id: str
    url: str


class ArchiveIdentity:
    """Compares the archive of this process with the recorded one. `objects` is None if this process has no archive."""

    def __init__(self, database: AsyncDatabase[Any], objects: Objects | None) -> None:
        self._deployment: AsyncCollection[Any] = database["deployment"]
        self._segments = SegmentStore(database)
        self._leases = LeaseStore(database)
        self._objects = objects
        self._claimed: LogId | None = None

    async def check(self) -> None:
        """Raise `ConfigurationError` if this process cannot read the recorded archive, and waiting would not help.

        Raises `Unavailable` if MongoDB or the archive does not answer.
        """
        recorded = await self._recorded()
        if recorded is None:
            if self._objects is not None:
                await self._readable(self._objects)
        elif self._objects is None:
            raise _none_here(recorded.url)
        else:
            await self._compare(self._objects, recorded)

    async def claim(self, log: LogId | None) -> None:
        """Record this process's archive, or compare it with the recorded one, once per log. Raises as `check`.

        A recorded archive without segments is replaced by the one in the settings, but only while no other worker runs.
        Otherwise this worker may be the one with the wrong settings, and all servers follow the record.
        """
        if log is not None and self._claimed == log:
            return
        recorded = await self._recorded()
        in_use = await self._segments.any_path()
        if self._objects is None:
            await self._give_up(recorded, in_use=in_use)
        elif recorded is None:
            await self._record(self._objects, in_use)
        else:
            try:
                await self._compare(self._objects, recorded)
            except ConfigurationError:
                if in_use or await self._leases.any_is_held():
                    raise
                await self._forget(recorded)
                await self._record(self._objects, in_use)
        self._claimed = log

    async def _recorded(self) -> RecordedArchive | None:
        with translated("the recorded archive can't be read"):
            row = await self._deployment.find_one(_KEY)
        return RecordedArchive(row["archive"], row["url"]) if row else None

    async def _readable(self, objects: Objects) -> None:
        """Raise `ConfigurationError` if the archive cannot be read. A missing mark is no error: it may be unused
        yet.
        """
        try:
            await _read(objects)
        except ObjectMissing:
            return
        except StorageRefused as error:
            raise _unusable(error) from error

    async def _compare(self, objects: Objects, recorded: RecordedArchive) -> None:
        try:
            mark = _id(await _read(objects))
        except ObjectMissing:
            mark = None
        except StorageRefused as error:
            raise _unusable(error) from error
        if mark != recorded.id:
            has = "has not the log's mark" if mark is None else "has another mark than the log's"
            raise ConfigurationError(f"archive_url names another archive than the log's: it {has}").because(
                f"{objects.shown} is here, {recorded.url} is the log's, {MARK} the mark"
            )

    async def _record(self, objects: Objects, in_use: str | None) -> None:
        try:
            if in_use is not None:
                await _read(objects, in_use)
            mark = await self._mark(objects)
        except ObjectMissing as error:
            raise ConfigurationError("archive_url is not where old events are").because(error.diagnosis) from error
        except StorageRefused as error:
            raise _unusable(error) from error
        with translated("the archive can't be recorded"):
            try:
                await self._deployment.insert_one(_KEY | {"archive": mark, "url": objects.shown})
            except DuplicateKeyError:
                await self.check()  # another worker was first

    async def _mark(self, objects: Objects) -> str:
        """Return the id in the archive's mark. Create the mark if it is missing, but never overwrite one."""
        try:
            return _id(await _read(objects))
        except ObjectMissing:
            mark = json.dumps({"archive": secrets.token_hex(16)})
        try:
            await objects.put(MARK, mark.encode())
        except StorageRefused:
            raise
        # Another worker may have made the mark at the same time: the one that is there counts.
        except Unavailable:
            return _id(await _read(objects))
        return _id(mark.encode())

    async def _give_up(self, recorded: RecordedArchive | None, *, in_use: str | None) -> None:
        if in_use is not None:
            raise _none_here(recorded.url if recorded else in_use)
        if recorded is not None:
            # A worker that runs has the archive, so its record is no leftover.
            if await self._leases.any_is_held():
                raise _none_here(recorded.url)
            await self._forget(recorded)

    async def _forget(self, recorded: RecordedArchive) -> None:
        with translated("the recorded archive can't be given up"):
            await self._deployment.delete_one(_KEY | {"archive": recorded.id})


def _none_here(where: str) -> ConfigurationError:
    return ConfigurationError("old events go to an archive, and archive_url names none here").because(where)


def _unusable(error: StorageRefused) -> ConfigurationError:
    return ConfigurationError(f"archive_url can't be used: {error.message}").because(error.said)


async def _read(objects: Objects, path: str = MARK) -> bytes:
    # A missing directory has no mark. (For a reader of segments, a missing directory may come back.)
    if objects.absent:
        raise ObjectMissing(f"{path} is not in the archive").because(objects.shown)
    return await objects.read(path, 0, _MARK_BYTES)


def _id(mark: bytes) -> str:
    """Return the id in a mark, or "" for an invalid mark."""
    try:
        return str(json.loads(mark)["archive"])
    except (ValueError, KeyError, TypeError):
        return ""
