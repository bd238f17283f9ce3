"""Cursors that are driven by commands, past PyMongo's own, have to be freed by one, too."""

from __future__ import annotations

import logging
from typing import Any

import pymongo
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import PyMongoError

from eventsync.mongodb.client import GOODBYE
from eventsync.mongodb.errors import short

logger = logging.getLogger(__name__)


async def free_cursor(database: AsyncDatabase[Any], session: AsyncClientSession, collection: str, number: int) -> None:
    """Free the server's cursor of this number, 0 being none; a server that can't be reached frees it by itself."""
    if not number:
        return
    try:
        with pymongo.timeout(GOODBYE):
            await database.command({"killCursors": collection, "cursors": [number]}, session=session)
    except PyMongoError as error:
        # Nothing depends on it: the session's end and the server's own timeout free the cursor too.
        logger.debug("a cursor could not be freed: %s", short(error))
