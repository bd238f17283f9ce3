"""The JSON form of BSON values, as plain Python values."""

from __future__ import annotations

from typing import Any

import orjson

from eventsync.domain.values.extended_json import to_json


def to_tree(value: Any) -> Any:
    """Return a value as a client reads it: dict, list, str, int, float, bool, None."""
    return orjson.loads(to_json(value))
