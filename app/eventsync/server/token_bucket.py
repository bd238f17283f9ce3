"""How often somebody may do something: so many times a second on average, and some at once."""

from __future__ import annotations

import time


class TokenBucket:
    """Holds `rate * seconds` tokens at most; they come back at `rate` a second."""

    def __init__(self, rate: float, *, seconds: float) -> None:
        self._rate = rate
        self._most = max(1.0, rate * seconds)
        self._tokens = self._most
        self._since = time.monotonic()

    def take(self) -> bool:
        """Take one. Whether there was one."""
        now = time.monotonic()
        self._tokens = min(self._most, self._tokens + (now - self._since) * self._rate)
        self._since = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True
