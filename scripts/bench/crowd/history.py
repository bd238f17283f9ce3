"""The log that a benchmark has to produce, and the collection at each position of it: computed, never remembered."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class History:
    """The log's events, all of one collection: event `seq` sets the field `n` of one document to `seq`.

    `documents` of them, with the ids 0, 1, 2 … and `n` 0, take turns. With 0 documents event `seq` creates document
    `seq`.
    """

    documents: int

    def is_event(self, seq: int, number: int, document: int) -> bool:
        """Return True if event `seq` may set `n` of this document to this number."""
        return number == seq and document == self.document(seq)

    def document(self, seq: int) -> int:
        """Return the id of the document that event `seq` is about."""
        return (seq - 1) % self.documents if self.documents else seq

    def value(self, document: int, seq: int) -> int:
        """Return `n` of a document at position `seq`."""
        return max(0, seq - (seq - 1 - document) % self.documents) if self.documents else document

    def count(self, seq: int) -> int:
        """Return the number of documents at position `seq`."""
        return self.documents or seq


@dataclass(frozen=True, slots=True)
class Overtaking(History):
    """The same events in whatever order: each number comes once."""

    _numbers: dict[int, int] = field(default_factory=dict)
    _seqs: dict[int, int] = field(default_factory=dict)

    def is_event(self, seq: int, number: int, document: int) -> bool:
        """Return True if event `seq` may give this document this number. It is the same for all clients."""
        one = self._numbers.setdefault(seq, number) == number and self._seqs.setdefault(number, seq) == seq
        return one and document == self.document(number)
