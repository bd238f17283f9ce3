"""Pre- and post-images: what makes every change event carry the exact document before and after it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bson.timestamp import Timestamp
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import OperationFailure

from app.driver import short, translated

_ENABLED = {"changeStreamPreAndPostImages": {"enabled": True}}

_REFUSALS = frozenset({13, 72, 73, 166, 167})
"""Unauthorized, InvalidOptions, InvalidNamespace, CommandNotSupportedOnView, OptionNotSupportedOnView: it is about this
one collection, and asking again does not help.
"""


@dataclass(frozen=True, slots=True)
class Images:
    """Every change after `time` has its images, but for the collections in `refused`: name → why."""

    time: Timestamp
    refused: Mapping[str, str]


async def enable_images(database: AsyncDatabase[Any], names: Iterable[str], *, wanted: bool = True) -> Images:
    """Switch images on for each collection, making those that do not exist. Raises `Unavailable`.

    Where they are not `wanted`, only look which collections can be tracked. One that can't have them is refused by
    itself: it must not stop the sequencing of all others.
    """
    refused: dict[str, str] = {}
    with translated("pre- and post-images can't be enabled"):
        cursor = await database.list_collections()
        existing = {item["name"]: item async for item in cursor}
        for name in names:
            if reason := await _enable(database, name, existing.get(name), wanted=wanted):
                refused[name] = reason
        answer = await database.command("ping")
    return Images(answer["operationTime"], refused)


async def _enable(
    database: AsyncDatabase[Any], name: str, existing: Mapping[str, Any] | None, *, wanted: bool
) -> str | None:
    """Why MongoDB keeps no images of this one, or None."""
    if existing is not None and (kind := existing.get("type")) != "collection":
        return f"it is a {kind}, which has no changes of its own"
    options = existing.get("options", {}) if existing is not None else {}
    if not wanted or options.get("changeStreamPreAndPostImages", {}).get("enabled"):
        return None
    try:
        await database.command({"create" if existing is None else "collMod": name} | _ENABLED)
    except OperationFailure as error:
        if error.code not in _REFUSALS:
            raise
        return short(error)
    return None
