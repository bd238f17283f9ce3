"""Pre- and post-images: what makes every change event carry the exact document before and after it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bson.timestamp import Timestamp
from pymongo.asynchronous.database import AsyncDatabase

from app.errors import Unavailable
from app.stores.mongodb import translated

_ENABLED = {"changeStreamPreAndPostImages": {"enabled": True}}


async def enable_images(database: AsyncDatabase[Any], names: Iterable[str]) -> Timestamp:
    """Switch images on for each collection, making those that do not exist.

    Returns a cluster time: every change after it has its images. Raises `Unavailable`.
    """
    with translated("pre- and post-images can't be enabled"):
        cursor = await database.list_collections()
        existing = {item["name"]: item async for item in cursor}
        for name in names:
            if name not in existing:
                await database.command({"create": name} | _ENABLED)
            elif existing[name].get("type") != "collection":
                raise Unavailable(f"{name!r} is a {existing[name].get('type')}, which MongoDB keeps no images of")
            elif not existing[name].get("options", {}).get("changeStreamPreAndPostImages", {}).get("enabled"):
                await database.command({"collMod": name} | _ENABLED)
        answer = await database.command("ping")
    time = answer["operationTime"]
    return Timestamp(time.time, time.inc)
