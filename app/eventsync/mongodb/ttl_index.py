"""Collections whose documents MongoDB itself deletes some time after their date."""

from __future__ import annotations

import math
from typing import Any, Final

from pymongo import ASCENDING
from pymongo.errors import OperationFailure

_OTHER_OPTIONS: Final = 85
"""IndexOptionsConflict: the index is there, with another time to live."""

_LONGEST: Final = 2**31 - 1


async def ensure_expiry(collection: Any, field: str, seconds: float) -> None:
    """Have documents deleted so many seconds after the date in `field`, also where it was another time before.

    Raises the driver's errors.
    """
    whole = min(max(1, math.ceil(seconds)), _LONGEST)
    try:
        await collection.create_index([(field, ASCENDING)], expireAfterSeconds=whole)
    except OperationFailure as error:
        if error.code != _OTHER_OPTIONS:
            raise
        index = {"keyPattern": {field: 1}, "expireAfterSeconds": whole}
        await collection.database.command({"collMod": collection.name, "index": index})
