"""A rate limit with bursts."""

from __future__ import annotations

import time


class TokenBucket:
    """Holds at most `rate * seconds` tokens, and regains `rate` tokens a second."""

    def __init__(self, rate: float, *, seconds: float) -> None:
        self._rate = rate
        self._capacity = max(1.0, rate * seconds)
        self._tokens = self._capacity
        self._since = time.monotonic()

    @property
    def is_empty(self) -> bool:
        """True if there is no token to take."""
        now = time.monotonic()
        self._tokens = min(self._capacity, self._tokens + (now - self._since) * self._rate)
        self._since = now
        return self._tokens < 1.0

    def take(self) -> bool:
        """Take a token. Return False if there is none."""
        if self.is_empty:
            return False
        self._tokens -= 1.0
        return True
