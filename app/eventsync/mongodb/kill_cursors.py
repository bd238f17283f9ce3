"""Freeing the server cursors that this package drives by commands, without PyMongo's cursors."""

from __future__ import annotations

import logging
from typing import Any

import pymongo
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import PyMongoError

from eventsync.mongodb.client import CLOSE_TIMEOUT
from eventsync.mongodb.errors import short

logger = logging.getLogger(__name__)


async def free_cursor(database: AsyncDatabase[Any], session: AsyncClientSession, collection: str, number: int) -> None:
    """Free a server cursor; `number` 0 means none. An unreachable server frees it after a timeout."""
    if not number:
        return
    try:
        with pymongo.timeout(CLOSE_TIMEOUT):
            await database.command({"killCursors": collection, "cursors": [number]}, session=session)
    except PyMongoError as error:
        # The end of the session or the server's own timeout also frees the cursor.
        logger.debug("a cursor could not be freed: %s", short(error))
