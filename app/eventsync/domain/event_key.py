"""The `_id` of an event's row, `{l: log, n: seq}`, and ranges of it. Pure.

MongoDB compares embedded documents field by field, so the rows of one log stand together in the index on `_id`, in the
order of their seqs. A segment is stored under the key of its first event.
"""

from __future__ import annotations

from typing import Any, Final

from bson.int64 import Int64

from eventsync.domain.positions import LogId

_BEHIND_NUMBERS: Final = ""
"""MongoDB sorts by type first, and strings behind all numbers."""


def event_key(log_id: LogId, seq: int) -> dict[str, Any]:
    """Return the `_id` of one event."""
    return {"l": log_id, "n": Int64(seq)}


def key_range(log_id: LogId, after: int = -1, up_to: int | None = None) -> dict[str, Any]:
    """Return the condition on `_id` that selects `after < seq <= up_to`; by default to the end of the log."""
    if up_to is None:
        return {"$gt": event_key(log_id, after), "$lt": {"l": log_id, "n": _BEHIND_NUMBERS}}
    return {"$gt": event_key(log_id, after), "$lte": event_key(log_id, up_to)}
