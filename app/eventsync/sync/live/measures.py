"""Measures of live delivery: messages written to clients, and the time from a commit until its event was published."""

from __future__ import annotations

import time
from collections import deque
from datetime import datetime
from typing import Final

from eventsync.stores.log.stored_event import StoredEvent

_DELAYS: Final = 200
"""Delays that are kept. Their quantiles are those of the newest publications."""

_AT: Final = b'"at":"'
_TIME: Final = len("2026-11-23T05:22:46.405Z")


class Measures:
    """One a window. Counting is a few additions for each publication, however many clients there are."""

    __slots__ = ("_delays", "delivered")

    def __init__(self) -> None:
        self.delivered = 0
        """Number of `events` messages that were written to clients so far."""
        self._delays: deque[float] = deque(maxlen=_DELAYS)

    def published(self, newest: StoredEvent) -> None:
        """Note that an event has just been published to clients, with all before it."""
        if (committed := committed_at(newest.body)) is not None:
            # By this server's clock, which may differ from MongoDB's.
            self._delays.append(max(0.0, time.time() - committed))

    def take_delays(self) -> list[float]:
        """Return the newest delays since the last call, in seconds."""
        taken = [round(delay, 6) for delay in self._delays]
        self._delays.clear()
        return taken


def committed_at(body: bytes) -> float | None:
    """Return the commit time of an event's JSON, in Unix seconds; None for a damaged one.

    It is found from the end, without parsing a body of megabytes: inside of a text, quotes are escaped.
    """
    begin = body.rfind(_AT) + len(_AT)
    try:
        return datetime.fromisoformat(body[begin : begin + _TIME].decode()).timestamp()
    except ValueError:
        return None
