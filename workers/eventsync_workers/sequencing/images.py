"""Enables pre- and post-images, by which a change event carries the exact document before and after it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from bson.timestamp import Timestamp
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import OperationFailure

from eventsync.domain.names import check_collection
from eventsync.domain.values.extended_json import RAW_CODEC
from eventsync.errors import Malformed
from eventsync.mongodb.clocks import cluster_time
from eventsync.mongodb.errors import Barred, barred, short, translated, unavailable

logger = logging.getLogger(__name__)

_ENABLED = {"changeStreamPreAndPostImages": {"enabled": True}}

_UNAUTHORIZED: Final = 13

_LOCK_WAIT_MS: Final = 1000
"""Milliseconds that MongoDB may wait for a lock on one collection. The changes of all others wait as long."""

_NOT_IN_TIME: Final = frozenset({24, 50})
"""The codes of MongoDB for a lock that it did not get, and for the end of the time."""

_LOCKED: Final = "another operation holds a lock on it, so MongoDB can't enable its pre- and post-images for now"


@dataclass(frozen=True, slots=True)
class Images:
    """Every change after `time` has its images, except in the collections of `refused`: name → reason.

    Those in `impossible` can't be followed at all, with images or without. Those in `locked` were refused because
    somebody holds a lock on them.
    """

    time: Timestamp
    refused: Mapping[str, str]
    impossible: frozenset[str]
    locked: frozenset[str]


async def enable_images(database: AsyncDatabase[Any], names: Iterable[str], *, wanted: bool = True) -> Images:
    """Enable the images of each collection, and make those that do not exist. Raises `Unavailable`.

    If they are not `wanted`, only check which collections can be tracked. A collection that can't have images is
    refused alone: it must not stop the sequencing of the others.
    """
    refused: dict[str, str] = {}
    impossible: set[str] = set()
    with translated("pre- and post-images can't be enabled"):
        cursor = await database.list_collections()
        existing = {item["name"]: item async for item in cursor}
        for name in names:
            found = existing.get(name)
            if reason := await _impossible(database, name, found):
                refused[name] = reason
                impossible.add(name)
            elif reason := await _enable(database, name, found, wanted=wanted):
                refused[name] = reason
    # The time is read last: whatever is committed after it was written with images enabled.
    locked = frozenset(name for name, reason in refused.items() if reason == _LOCKED)
    return Images(await cluster_time(database), refused, frozenset(impossible), locked)


async def _impossible(database: AsyncDatabase[Any], name: str, existing: Mapping[str, Any] | None) -> str | None:
    """Return why this collection can't be followed exactly, or None if it can."""
    try:
        check_collection(name)
    except Malformed as error:
        return error.message
    if existing is None:
        return None
    return _of_another_kind(existing) or await _unreadable(database, name)


async def _unreadable(database: AsyncDatabase[Any], name: str) -> str | None:
    """Return why the collection can't be read, as every snapshot and repair must, or None if it can."""
    try:
        raw = database[name].with_options(codec_options=RAW_CODEC)
        await raw.find_one({}, {"_id": 1}, max_time_ms=_LOCK_WAIT_MS)
    except OperationFailure as error:
        # Any other error may be transient, and occurs again where the collection is read.
        found = unavailable("it can't be read", error)
        return found.message if isinstance(found, Barred) else None
    return None


def _of_another_kind(existing: Mapping[str, Any]) -> str | None:
    if (kind := existing["type"]) != "collection":
        return f"it is a {kind}, which has no changes of its own"
    if existing["options"].get("capped"):
        return "it is capped, and MongoDB can't read a capped collection as it was at a cluster time"
    return None


async def _enable(
    database: AsyncDatabase[Any], name: str, existing: Mapping[str, Any] | None, *, wanted: bool
) -> str | None:
    """Enable the images of a collection. Return why MongoDB keeps none, or None if it does.

    Make the collection if it does not exist, so that a read can tell an empty one from one that was dropped meanwhile.
    """
    enabled = existing and existing["options"].get("changeStreamPreAndPostImages", {}).get("enabled")
    if existing is not None and (enabled or not wanted):
        return None
    command = {"create" if existing is None else "collMod": name, "maxTimeMS": _LOCK_WAIT_MS}
    try:
        await database.command(command | (_ENABLED if wanted else {}))
    except OperationFailure as error:
        # Whatever the error is, it concerns this collection alone. It is tried again at the next check of the registry.
        logger.debug("%s: MongoDB answered: %s", name, short(error))
        return _why(error)
    return None


def _why(error: OperationFailure) -> str:
    """Return why images are not enabled, in words that clients can be sent."""
    if error.code in _NOT_IN_TIME:
        return _LOCKED
    if error.code == _UNAUTHORIZED:
        return "the MongoDB user may not enable its pre- and post-images (privileges collMod and createCollection)"
    reason = barred(error)
    return "MongoDB does not enable its pre- and post-images" + (f": {reason}" if reason else "")
