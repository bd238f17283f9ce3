"""Probe of the server under test: whether it can split a change that is over 16 MiB."""

from __future__ import annotations

from typing import Any

import pytest
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import OperationFailure

_UNKNOWN_STAGE = 40324


async def splits(database: AsyncDatabase[Any]) -> bool:
    """Asked of the server itself, and not by its version."""
    pipeline: list[dict[str, Any]] = [{"$changeStream": {}}, {"$changeStreamSplitLargeEvent": {}}]
    try:
        answer = await database.command({"aggregate": 1, "pipeline": pipeline, "cursor": {"batchSize": 0}})
    except OperationFailure as error:
        if error.code != _UNKNOWN_STAGE:
            raise
        return False
    await database.command({"killCursors": "$cmd.aggregate", "cursors": [answer["cursor"]["id"]]})
    return True


async def skip_unless_split(database: AsyncDatabase[Any]) -> None:
    """Skip the test where the server has no `$changeStreamSplitLargeEvent`."""
    if not await splits(database):
        pytest.skip("this MongoDB has no $changeStreamSplitLargeEvent: it takes 6.0.9, 7.0 or newer")
