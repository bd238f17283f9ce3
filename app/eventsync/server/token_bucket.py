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

    def take(self) -> bool:
        """Take a token. Return False if there is none."""
        now = time.monotonic()
        self._tokens = min(self._capacity, self._tokens + (now - self._since) * self._rate)
        self._since = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True
