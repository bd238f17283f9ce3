"""How many documents MongoDB is asked for at a time, so that an answer has few bytes.

MongoDB bounds an answer by a count and by 16 MiB. To receive and to cut up 16 MiB holds an event loop up for 20 ms, and
what has come can't be refused any more. The sizes of a collection's documents say how many of them are few bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

ANSWER_BYTES: Final = 2 * 1024 * 1024
"""Bytes that an answer is to have. Small documents never get there; a single one may have more."""


class AnswerSize:
    """Learns from each answer what the next one may hold."""

    def __init__(self) -> None:
        self._each = 0.0

    def documents(self, most: int) -> int:
        """Return how many documents to ask for, at most `most` and at least one."""
        return max(1, min(most, int(ANSWER_BYTES / self._each))) if self._each else most

    def learn(self, sizes: Iterable[int]) -> None:
        """Take the sizes of an answer's documents into account. Where they become smaller, answers grow by and by."""
        found = list(sizes)
        if found:
            self._each = max(sum(found) / len(found), self._each / 4)
