"""Converting a client's JSON into BSON in place of stored values: plain numbers keep the stored types."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

import orjson
from bson.binary import UUID_SUBTYPE, Binary
from bson.code import Code
from bson.dbref import DBRef
from bson.decimal128 import Decimal128
from bson.int64 import Int64

from eventsync.domain.bson_scan.opaque import Opaque, is_text, readable
from eventsync.domain.bson_scan.plain import is_odd_decimal
from eventsync.domain.values.extended_json import Document, JsonText, double_of, from_tree, parse_json, to_json
from eventsync.errors import Malformed


class Absent(Enum):
    """`ABSENT` stands for a missing value, unlike null, which is a value.

    (A member of an enumeration keeps its identity when it is pickled.)
    """

    ABSENT = "absent"


ABSENT: Final = Absent.ABSENT


@dataclass(slots=True)
class JsonDocument:
    """A whole document as a client sent it: `tree` is the parsed JSON, or a `JsonText`."""

    tree: Any

    def parsed(self) -> JsonDocument:
        """Return the document with its JSON parsed. Raises `Malformed`."""
        return JsonDocument(parse_json(self.tree.text)) if isinstance(self.tree, JsonText) else self

    def value(self) -> Document:
        """Return the BSON document. Raises `Malformed`."""
        value = from_tree(self.tree)
        if not isinstance(self.tree, dict) or not isinstance(value, dict):
            raise Malformed("a document is a JSON object")
        return value

    def in_place_of(self, old: Document) -> Document:
        """Return the BSON document that replaces `old`."""
        return converted(old, self.tree, self.value())  # type: ignore[no-any-return] # an object stays one


def _comes_back(old: Any, tree: Any) -> bool:
    """Return True if `tree` is the JSON that the server sent for `old`, and that JSON is lossy."""
    kind = type(old)
    if kind is Decimal128:
        vague = is_odd_decimal(old)
    elif kind is Binary:
        vague = old.subtype == UUID_SUBTYPE
    elif isinstance(old, Mapping):
        # A plain object that looks like a type wrapper.
        vague = isinstance(tree, dict) and any(name.startswith("$") for name in tree)
    else:
        vague = kind is Opaque or kind is DBRef or (kind is Code and old.scope is not None)
    return vague and _spelled(tree) == _spelled(orjson.loads(to_json(old)))


def _spelled(tree: Any) -> bytes:
    return orjson.dumps(tree, option=orjson.OPT_SORT_KEYS)


def _unreadable_names(old: Any) -> dict[str, str]:
    """Return the names of a stored object that are not UTF-8, keyed by the text that clients see."""
    if not isinstance(old, Mapping):
        return {}
    return {shown: name for name in old if not is_text(name) and (shown := readable(name)) not in old}


def converted(old: Any, tree: Any, value: Any) -> Any:
    """Return `value`, read from the JSON `tree`, with plain numbers in the types of `old`, which it replaces.

    A plain `6` names no BSON type (JavaScript can't even write `6.0`), so it takes that of an int64 or double that it
    replaces. A number with a type wrapper (`{"$numberInt": "6"}`) keeps its type, as does one that is no double. What a
    client returns unchanged stays as it is stored, even if its JSON is lossy.
    """
    if _comes_back(old, tree):
        return old
    if isinstance(tree, dict) and isinstance(value, dict):
        at, names = old if isinstance(old, Mapping) else {}, _unreadable_names(old)
        pairs = ((names.get(name, name), tree[name], item) for name, item in value.items())
        return {name: converted(at.get(name, ABSENT), sent, item) for name, sent, item in pairs}
    if isinstance(tree, list):
        rest = itertools.chain(old if isinstance(old, list) else (), itertools.repeat(ABSENT))
        return [converted(was, *pair) for was, pair in zip(rest, zip(tree, value, strict=True), strict=False)]
    return _kept(old, tree, value) if type(tree) is int else value


def _kept(old: Any, number: int, value: Any) -> Any:
    """Return a plain number, which is `value` by itself, in the type of `old` if that is an int64 or a double."""
    if type(old) is Int64:
        return Int64(number)
    if type(old) is not float or (double := double_of(number)) is None:
        return value
    return old if double == old else double  # JavaScript writes -0.0 as 0
