"""Counts collections whose reads MongoDB refuses repeatedly, with an error that it does not call transient."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from eventsync.stores.snapshots.live_snapshots import ReadRefused

_MAX_REFUSALS: Final = 3
"""Number of consecutive refusals with the same code after which a fault counts as lasting."""

_FORGOTTEN: Final = 60.0
"""Seconds after which the next refusal counts as the first one."""

_CONFINED: Final = 60.0
"""Seconds for which a collection is not followed. Then it is tried again, because the fault may have passed."""


@dataclass(frozen=True, slots=True)
class _Fault:
    code: int | None
    count: int
    at: float


class Faults:
    """Counts refusals of reads, from term to term."""

    def __init__(self) -> None:
        self._found: dict[str, _Fault] = {}
        self._confined: dict[str, float] = {}

    def lasts(self, refused: ReadRefused) -> bool:
        """Note a refusal; return True if the collection is to be confined now, so that the others can be followed."""
        name, now = refused.collection, time.monotonic()
        last = self._found.pop(name, None)
        # The same code each time: different ones are trouble of MongoDB, not a fault of the collection.
        in_a_row = last is not None and last.code == refused.mongodb_code and now - last.at < _FORGOTTEN
        count = last.count + 1 if last is not None and in_a_row else 1
        if count < _MAX_REFUSALS:
            self._found[name] = _Fault(refused.mongodb_code, count, now)
            return False
        self._confined[name] = now + _CONFINED
        return True

    def confines(self, name: str) -> bool:
        """Return True if a collection is not to be followed for now."""
        return self._confined.get(name, 0.0) > time.monotonic()
