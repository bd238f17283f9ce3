"""Collections that are not followed for now: MongoDB refuses to read them, or somebody holds a lock on them."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

from eventsync.stores.snapshots.live_snapshots import ReadRefused

_MAX_REFUSALS: Final = 3
"""Number of consecutive refusals with the same code after which a fault counts as lasting."""

_FORGOTTEN: Final = 60.0
"""Seconds after which the next refusal counts as the first one."""

_CONFINED: Final = 60.0
"""Seconds for which a collection is not followed. Then it is tried again, because the fault may have passed."""

_FIRST_REST: Final = 1.0
_MAX_REST: Final = 30.0
"""Seconds for which a locked collection is left alone, doubled each time. Each try holds up all others."""


@dataclass(frozen=True, slots=True)
class _Fault:
    code: int | None
    count: int
    at: float


class Faults:
    """Counts refusals of reads and locks, from term to term."""

    def __init__(self) -> None:
        self._found: dict[str, _Fault] = {}
        self._confined: dict[str, float] = {}
        self._rests: dict[str, float] = {}

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

    def note_locks(self, tried: Iterable[str], locked: Collection[str]) -> None:
        """Note which of the collections that were to be followed somebody holds a lock on."""
        for name in tried:
            rest = self._rests.pop(name, _FIRST_REST)
            if name in locked:
                self._rests[name] = min(2 * rest, _MAX_REST)
                self._confined[name] = time.monotonic() + rest

    def confines(self, name: str) -> bool:
        """Return True if a collection is not to be followed for now."""
        return self._confined.get(name, 0.0) > time.monotonic()
