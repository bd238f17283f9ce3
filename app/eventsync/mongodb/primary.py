"""The identity of the `mongod` process that is primary."""

from __future__ import annotations

from typing import Any

from pymongo.asynchronous.database import AsyncDatabase

from eventsync.mongodb.errors import translated


async def primary_process(database: AsyncDatabase[Any]) -> str:
    """Return the identity of the process that is primary now. Each start of a `mongod` has another one.

    Empty if it is unknown: through `mongos`, each request may take another one. Raises `Unavailable`.
    """
    with translated("the primary can't be identified"):
        hello = await database.client["admin"].command("hello")
    if hello.get("msg") == "isdbgrid":
        return ""
    return str(hello.get("topologyVersion", {}).get("processId", ""))
