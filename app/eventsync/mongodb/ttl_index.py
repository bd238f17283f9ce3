"""TTL indexes."""

from __future__ import annotations

import math
from typing import Any, Final

from pymongo import ASCENDING
from pymongo.errors import OperationFailure

_OTHER_OPTIONS: Final = 85
"""IndexOptionsConflict: the index exists with another time to live."""

_MAX_SECONDS: Final = 2**31 - 1


async def ensure_expiry(collection: Any, field: str, seconds: float) -> None:
    """Create a TTL index on `field`, or change the time to live of the existing one.

    Raises the driver's errors.
    """
    whole = min(max(1, math.ceil(seconds)), _MAX_SECONDS)
    try:
        await collection.create_index([(field, ASCENDING)], expireAfterSeconds=whole)
    except OperationFailure as error:
        if error.code != _OTHER_OPTIONS:
            raise
        index = {"keyPattern": {field: 1}, "expireAfterSeconds": whole}
        # The setting may have changed since the index was made. Making it again would scan the collection.
        await collection.database.command({"collMod": collection.name, "index": index})
