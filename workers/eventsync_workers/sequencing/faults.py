"""Collections that are not followed for now: reads of them are refused, work takes too long, or they are locked."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from eventsync.concurrency.offload import HelperTimeout
from eventsync.errors import Unavailable
from eventsync.stores.snapshots.live_snapshots import ReadRefused

_MAX_REFUSALS: Final = 3
"""Number of consecutive refusals with the same code, or of timeouts, after which a fault counts as lasting."""

_FORGOTTEN: Final = 60.0
"""Seconds after which the next refusal counts as the first one, besides those that it took."""

_CONFINED: Final = 60.0
"""Seconds for which a collection is not followed. Then it is tried again, because the fault may have passed."""

_FIRST_REST: Final = 1.0
_MAX_REST: Final = 30.0
"""Seconds for which a locked collection is left alone, doubled each time. Each try holds up all others."""


class WorkTimeout(Unavailable):
    """A helper process did not finish work on a collection, possibly because of what is in it."""

    mongodb_code: Final = None

    def __init__(self, collection: str, error: HelperTimeout) -> None:
        super().__init__(f"{collection} can't be followed: {error.message}")
        self.collection = collection
        self.seconds = error.seconds


@contextmanager
def timed(collection: str) -> Iterator[None]:
    """Raise `WorkTimeout` for a `HelperTimeout` in the block, which works on `collection`."""
    try:
        yield
    except HelperTimeout as error:
        raise WorkTimeout(collection, error) from error


LastingFault = ReadRefused | WorkTimeout
"""What confines itself to its collection once it repeats."""


@dataclass(frozen=True, slots=True)
class _Fault:
    code: int | None
    count: int
    at: float


class Faults:
    """Counts faults and locks of collections, from term to term."""

    def __init__(self) -> None:
        self._found: dict[str, _Fault] = {}
        self._confined: dict[str, float] = {}
        self._rests: dict[str, float] = {}

    def lasts(self, refused: LastingFault) -> bool:
        """Note a fault; return True if the collection is to be confined now, so that the others can be followed."""
        name, now = refused.collection, time.monotonic()
        last = self._found.pop(name, None)
        # The same code each time: different ones are trouble of MongoDB, not a fault of the collection.
        took = refused.seconds if isinstance(refused, WorkTimeout) else 0.0
        in_a_row = last is not None and last.code == refused.mongodb_code and now - last.at < _FORGOTTEN + took
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
