"""`_sync`, the one reserved field of a stored document: `{v: version, op: operation id, by: principal}`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from bson.int64 import Int64

from eventsync.domain.bson_scan.opaque import Document, OddDocument

FIELD: Final = "_sync"

MAX_VERSION: Final = 2**53 - 1
"""The greatest version that every JSON parser reads as it is (RFC 8259 section 6). No document is written so often."""


class Stamp(NamedTuple):
    """What the last API write left in the document. `deleted` is set only inside the transaction of an API delete:
    the update that sets it gives the delete behind it its version, operation and principal.
    """

    version: int = 0
    op_id: str | None = None
    by: str | None = None
    deleted: bool = False

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Stamp:
        """The stamp of a stored document; version 0 where there is none, or one that is not ours."""
        field = document.get(FIELD)
        if not isinstance(field, Mapping) or (version := version_in(field)) is None:
            return cls()
        op_id, by = field.get("op"), field.get("by")
        return cls(
            version,
            op_id if isinstance(op_id, str) else None,
            by if isinstance(by, str) else None,
            field.get("deleted") is True,
        )

    def stored(self) -> Document:
        """The field's value, as it is written."""
        stamp: Document = {"v": Int64(self.version), "op": self.op_id, "by": self.by}
        return stamp | {"deleted": True} if self.deleted else stamp


def version_in(field: Mapping[str, Any]) -> int | None:
    """The version in a stored stamp; None for a value that is no version: others may have written anything there."""
    version = field.get("v")
    if not isinstance(version, int) or isinstance(version, bool):
        return None
    return int(version) if 0 <= version <= MAX_VERSION else None


def unstamp(document: Mapping[str, Any]) -> tuple[Stamp, Document]:
    """The stamp, and the document as its users know it: `_id` first, `_sync` gone."""
    if FIELD not in document:
        return _UNSTAMPED, _like(document, dict(document))
    plain = {name: value for name, value in document.items() if name != FIELD}
    return Stamp.of(document), _like(document, plain)


def _like(document: Mapping[str, Any], copied: Document) -> Document:
    """The copy, odd where the document is."""
    return type(document)(copied) if isinstance(document, OddDocument) else copied


def unversioned(document: Document) -> tuple[int, Document]:
    """The stamp's version, and the document without the stamp, which is taken out of it: the same for half the time."""
    if (field := document.pop(FIELD, None)) is None:
        return 0, document
    return (version_in(field) or 0) if isinstance(field, dict) else 0, document


_UNSTAMPED: Final = Stamp()
