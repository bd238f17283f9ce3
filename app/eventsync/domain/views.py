"""Views: a shape as one principal sees it. Pure.

A view is a shape and a read grant: documents in both, without what is hidden. So it is a conjunction of *clauses*, each
of them a union of keys: a declared shape is one clause, and the parts of a rule are another. A document is in the view
if it has a key of each clause. A view without clauses has all documents of its collection.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final, Protocol, Self

from eventsync.domain.predicates.keys import KEY_BYTES, NO_KEYS

_VERSION: Final = b"eventsync view 1"


class BoundPart(Protocol):
    """A definition with its parameters bound: a `Route`, or the part of a rule that a principal's claims make."""

    @property
    def keys(self) -> frozenset[bytes]:
        """The keys, of which documents in it have one."""

    @property
    def filter(self) -> Mapping[str, Any]:
        """The filter that finds its documents, with the collation `{"locale": "simple"}`."""

    def admits(self, document: Mapping[str, Any]) -> bool:
        """Return True if a document has one of the keys."""


class Redactor(Protocol):
    """Hides paths, in documents and in patches alike."""

    @property
    def digest(self) -> bytes:
        """A digest of what is hidden."""

    def strip(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """Return a new document without what is hidden."""

    def redact(self, patch: Any) -> list[Any]:
        """Return a patch without what is hidden."""


@dataclass(frozen=True, slots=True)
class Clause:
    """A union of parts of a collection. Documents in it have one of `keys`."""

    parts: tuple[BoundPart, ...]
    keys: frozenset[bytes]

    @classmethod
    def of(cls, parts: Iterable[BoundPart]) -> Self:
        """Return the union of one or more parts."""
        parts = tuple(parts)
        return cls(parts, parts[0].keys if len(parts) == 1 else NO_KEYS.union(*(part.keys for part in parts)))

    @property
    def filter(self) -> Mapping[str, Any]:
        """The filter that finds its documents, with the collation `{"locale": "simple"}`."""
        filters = [part.filter for part in self.parts]
        return filters[0] if len(filters) == 1 else {"$or": filters}

    def admits(self, document: Mapping[str, Any]) -> bool:
        """Return True if a document has one of the keys."""
        return any(part.admits(document) for part in self.parts)


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """The part of a shape that one principal sees. Its members are those of a `Route`, which it stands in place of.

    `key` is made of everything that decides what is seen: the shape's text, the keys, and what is hidden. Views with
    equal keys share subscribers and frames. `keys` are those of the smallest clause: each of its events has one of
    them, but not each event with one of them is in the view. Without clauses there are none.
    """

    collection: str
    key: bytes
    conditions: tuple[Clause, ...]
    clauses: tuple[frozenset[bytes], ...]
    keys: frozenset[bytes]
    redaction: Redactor | None
    since: int
    activations: tuple[tuple[str, int], ...]

    @classmethod
    def of(
        cls,
        text: str,
        collection: str,
        conditions: Iterable[Clause],
        redaction: Redactor | None = None,
        *,
        since: int = 0,
        activations: Iterable[tuple[str, int]] = (),
    ) -> Self:
        """Return the view of a shape, which has this text, under some conditions.

        `activations` are those of all definitions in the conditions, and events after `since` have the keys of all.
        """
        conditions = tuple(conditions)
        clauses = tuple(clause.keys for clause in conditions)
        # Of equally large ones the last: a principal has less of a shape than the shape has.
        keys = min(reversed(clauses), key=len, default=NO_KEYS)
        key = _key(text, clauses, redaction)
        return cls(collection, key, conditions, clauses, keys, redaction, since, tuple(sorted(set(activations))))

    @property
    def filter(self) -> Mapping[str, Any]:
        """The filter that finds its documents, with the collation `{"locale": "simple"}`."""
        filters = [clause.filter for clause in self.conditions]
        if len(filters) < 2:
            return filters[0] if filters else {}
        return {"$and": filters}

    @property
    def scope(self) -> str:
        """The part of a position that names the view: 8 hex digits of everything that decides what is in it."""
        return self.key.hex()[:8]

    def admits(self, document: Mapping[str, Any]) -> bool:
        """Return True if a document has a key of each clause. The filter also finds those that have too many keys."""
        return all(clause.admits(document) for clause in self.conditions)


def _key(text: str, clauses: Iterable[frozenset[bytes]], redaction: Redactor | None) -> bytes:
    """Return the key of a view. Clauses are sorted, because their order decides nothing."""
    joined = sorted(b"".join(sorted(keys)) for keys in clauses)
    parts = (_VERSION, text.encode("utf-8", "surrogatepass"), redaction.digest if redaction else b"", *joined)
    hasher = blake2b(digest_size=KEY_BYTES)
    for part in parts:
        hasher.update(b"%d:%b" % (len(part), part))
    return hasher.digest()
