"""Collections that MongoDB refuses to read again and again, for a reason that it does not call a passing one."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from eventsync.stores.snapshots.live_snapshots import ReadRefused

_TIMES: Final = 3
"""Refusals in a row, with the same code, after which a fault counts as a lasting one."""

_FORGOTTEN: Final = 60.0
"""Seconds without another refusal after which it counts as the first one."""

_CONFINED: Final = 60.0
"""Seconds for which a collection is left alone. Then it is tried again: nobody knows that the fault lasts for ever."""


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
        """Note a refusal; tell whether the collection is to be confined now, so that the others go on."""
        name, now = refused.collection, time.monotonic()
        last = self._found.pop(name, None)
        in_a_row = last is not None and last.code == refused.mongodb_code and now - last.at < _FORGOTTEN
        count = last.count + 1 if last is not None and in_a_row else 1
        if count < _TIMES:
            self._found[name] = _Fault(refused.mongodb_code, count, now)
            return False
        self._confined[name] = now + _CONFINED
        return True

    def confines(self, name: str) -> bool:
        """Tell whether a collection is to be left alone for now."""
        return self._confined.get(name, 0.0) > time.monotonic()
