"""Documents as this process has read or written them last."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from bson.raw_bson import RawBSONDocument

from eventsync.domain.ids import IdText

_ENTRY: Final = 512
"""The size of an entry beside its document, in bytes."""


class RecentDocuments:
    """Guesses at stored documents, at most `max_bytes` of them. The least recently used ones leave first.

    A guess decides nothing: the write itself compares it with the stored document.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        # Not an `LRUCache`: that keeps the first value of a key, and here the last one counts.
        self._known: OrderedDict[tuple[str, IdText], RawBSONDocument] = OrderedDict()

    def get(self, collection: str, key: IdText) -> RawBSONDocument | None:
        """Return the last known state of a document, or None."""
        if (raw := self._known.get((collection, key))) is not None:
            self._known.move_to_end((collection, key))
        return raw

    def put(self, collection: str, key: IdText, raw: RawBSONDocument) -> None:
        """Remember a state that MongoDB has confirmed."""
        # Also for a state that is too large to keep: the older one would be a wrong guess.
        self.drop(collection, key)
        size = len(raw.raw) + _ENTRY
        if size > self._max_bytes:
            return
        self._known[collection, key] = raw
        self._bytes += size
        while self._bytes > self._max_bytes:
            _, oldest = self._known.popitem(last=False)
            self._bytes -= len(oldest.raw) + _ENTRY

    def drop(self, collection: str, key: IdText) -> None:
        """Forget a document."""
        if (raw := self._known.pop((collection, key), None)) is not None:
            self._bytes -= len(raw.raw) + _ENTRY
