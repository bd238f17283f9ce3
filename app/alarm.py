"""Alarms: faults that only an operator can mend. Thousands of clients may meet one; it is logged once a minute."""

from __future__ import annotations

import logging
import time
from typing import Final

_EVERY: Final = 60.0
_MOST: Final = 1000


class Alarms:
    """The alarms of one part of the system, which `log` names."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._told: dict[str, float] = {}

    def tell(self, what: str) -> None:
        """Log `ALARM: what`, at level ERROR; at DEBUG where it was told within the last minute."""
        now = time.monotonic()
        recent = now - self._told.get(what, now - _EVERY) < _EVERY
        self._log.log(logging.DEBUG if recent else logging.ERROR, "ALARM: %s", what)
        if not recent:
            self._told = {text: at for text, at in [*self._told.items()][-_MOST:] if now - at < _EVERY}
            self._told[what] = now
