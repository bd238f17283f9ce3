"""`_sync`, the one reserved field of a stored document: `{v: version, op: operation id, by: principal}`.

A write that is traced leaves the context of its trace there too, as `t`: a W3C `traceparent`. It is no part of a
`Stamp`, which is compared, and only workers that trace read it.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import bson
from bson.int64 import Int64

from eventsync.domain.bson_scan.ambiguous import like
from eventsync.domain.bson_scan.opaque import CODEC, Document

FIELD: Final = "_sync"

MAX_VERSION: Final = 2**53 - 1
"""The greatest integer that every JSON parser reads exactly (RFC 8259 section 6)."""


TRACE: Final = "t"
"""The name of the `traceparent` in the field."""

_INT32: Final = struct.Struct("<i")


class Stamp(NamedTuple):
    """The version, operation id and principal of the last API write of a document.

    `deleted` is set only inside the transaction of an API delete: an update sets it just before the delete, which has
    no fields of its own.
    """

    version: int = 0
    op_id: str | None = None
    by: str | None = None
    deleted: bool = False

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Stamp:
        """Return the stamp of a stored document, with version 0 if it has none or an invalid one."""
        field = document.get(FIELD)
        # The type first: `isinstance` of an abstract class takes several times as long.
        if type(field) is not dict and not isinstance(field, Mapping):
            return cls()
        if (version := version_in(field)) is None:
            return cls()
        op_id, by = field.get("op"), field.get("by")
        return cls(
            version,
            op_id if isinstance(op_id, str) else None,
            by if isinstance(by, str) else None,
            field.get("deleted") is True,
        )

    def stored(self, trace: str | None = None) -> Document:
        """Return the value of the field as it is stored, with the `traceparent` of a write that is traced."""
        stamp: Document = {"v": Int64(self.version), "op": self.op_id, "by": self.by}
        if trace is not None:
            stamp[TRACE] = trace
        return stamp | {"deleted": True} if self.deleted else stamp

    def appended_to(self, document: bytes, trace: str | None = None) -> bytes:
        """Return an encoded document without a stamp with this one as its last field; `trace` as for `stored`."""
        field = bson.encode({FIELD: self.stored(trace)}, codec_options=CODEC)[4:-1]
        return b"".join((_INT32.pack(len(document) + len(field)), document[4:-1], field, b"\0"))


def trace_in(field: Any) -> str | None:
    """Return the `traceparent` in a stored stamp, which may be anything; None without one."""
    trace = field.get(TRACE) if isinstance(field, Mapping) else None
    return trace if isinstance(trace, str) else None


def version_in(field: Mapping[str, Any]) -> int | None:
    """Return the version in a stored stamp, or None if it is invalid, because other writers may change it."""
    version = field.get("v")
    if not isinstance(version, int) or isinstance(version, bool):
        return None
    return int(version) if 0 <= version <= MAX_VERSION else None


def unstamp(document: Mapping[str, Any]) -> tuple[Stamp, Document]:
    """Return the stamp, and the document without it."""
    if FIELD not in document:
        return _UNSTAMPED, like(document, dict(document))
    plain = {name: value for name, value in document.items() if name != FIELD}
    return Stamp.of(document), like(document, plain)


def unversioned(document: Document) -> tuple[int, Document]:
    """Remove the stamp from the document in place, and return its version and the document.

    This takes half the time of `unstamp`.
    """
    if (field := document.pop(FIELD, None)) is None:
        return 0, document
    return (version_in(field) or 0) if isinstance(field, dict) else 0, document


_UNSTAMPED: Final = Stamp()
