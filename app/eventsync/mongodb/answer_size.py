"""Batch sizes that keep MongoDB's replies small.

MongoDB bounds a reply by a count and by 16 MiB. Receiving and slicing 16 MiB blocks the event loop for 20 ms, and a
reply can't be refused once it arrives. The batch size follows from the sizes of the documents seen so far.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

ANSWER_BYTES: Final = 2 * 1024 * 1024
"""The target size of a reply. A single document may exceed it."""


class AnswerSize:
    """Estimates document sizes from each reply, to size the next one."""

    def __init__(self) -> None:
        self._each = 0.0

    def documents(self, max_count: int) -> int:
        """Return the number of documents to request, from 1 to `max_count`."""
        return max(1, min(max_count, int(ANSWER_BYTES / self._each))) if self._each else max_count

    def learn(self, sizes: Iterable[int]) -> None:
        """Account for the document sizes of a reply. When documents become smaller, batches grow step by step."""
        known = list(sizes)
        if known:
            # One batch of small documents says little about the next, which may be the large ones again.
            self._each = max(sum(known) / len(known), self._each / 4)
