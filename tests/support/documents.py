"""Hypothesis strategies for documents of BSON values, with the awkward names and types."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

import bson
from bson.binary import Binary
from bson.decimal128 import Decimal128
from bson.int64 import Int64
from bson.objectid import ObjectId
from bson.raw_bson import RawBSONDocument
from bson.regex import Regex
from bson.timestamp import Timestamp
from hypothesis import strategies as st

from eventsync.domain.values.extended_json import Document

PLAIN_NAMES = ("a", "b", "c", "0", "1", "01", "é", "a b", "~", "a/b", "-", "__proto__")
ODD_NAMES = ("", "a.b", "$a", "$set", ".", "a.0", "$")
"""Names that no path of MongoDB's can express."""

LEAVES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, Int64(1), Int64(2**40), 0.0, -0.0, 1.0, 1.5, float("nan"), float("inf"), "", "x", "$a",
    ObjectId("65a000000000000000000001"), datetime(2026, 11, 23, 5, 22, 46, 405000, UTC), Decimal128("1.50"),
    Decimal128("1.5"), b"bytes", Binary(b"other", 5), uuid.UUID(int=7), Regex("^a", "i"), Timestamp(7, 1),
)  # fmt: skip

_leaves = st.sampled_from(LEAVES)


def joined(*parts: Document) -> RawBSONDocument:
    """Return a document of the fields of all parts: a name that several have stands there as often."""
    fields = b"".join(bson.encode(part)[4:-1] for part in parts)
    return RawBSONDocument((len(fields) + 5).to_bytes(4, "little") + fields + b"\0")


def documents(*, odd: bool = True, size: int = 4) -> st.SearchStrategy[Document]:
    """Documents without `_id`; `odd`: also with names that can't be part of a path."""
    names = st.sampled_from(PLAIN_NAMES + ODD_NAMES if odd else PLAIN_NAMES)
    values = st.recursive(
        _leaves,
        lambda inner: st.lists(inner, max_size=size) | st.dictionaries(names, inner, max_size=size),
        max_leaves=12,
    )
    return st.dictionaries(names, values, max_size=size)


@st.composite
def pairs(draw: st.DrawFn, *, odd: bool = True) -> tuple[Document, Document]:
    """A document before and after: half of the time the second is an edit of the first, else it is unrelated."""
    before = draw(documents(odd=odd))
    if draw(st.booleans()):
        return before, draw(documents(odd=odd))
    return before, draw(_edited(before, odd=odd))


def _edited(value: Any, *, odd: bool) -> st.SearchStrategy[Any]:
    """Mostly the same value: fields and items go, come and change, at any depth."""
    if isinstance(value, dict):
        kept = {name: st.just(item) | _edited(item, odd=odd) for name, item in value.items()}
        optional = st.fixed_dictionaries({}, optional=kept)
        return st.tuples(optional, documents(odd=odd, size=1)).map(lambda both: both[0] | both[1])
    if isinstance(value, list):
        items = st.tuples(*(st.just(item) | _edited(item, odd=odd) for item in value)).map(list)
        return items | st.tuples(items, st.lists(_leaves, max_size=2)).map(lambda both: both[0] + both[1])
    return st.just(value) | _leaves
