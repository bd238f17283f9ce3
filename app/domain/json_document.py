"""Values from a client's JSON in the place of stored ones: plain numbers take the types that they replace."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

import orjson

from app.domain.opaque import Opaque
from app.domain.values import Document, JsonText, from_tree, keep_types, parse_json, to_json
from app.errors import Malformed


class Absent(Enum):
    """`ABSENT` stands in the place of a value that there is none of; not null, which is a value.

    (An enumeration's member stays the same one in another process.)
    """

    ABSENT = "absent"


ABSENT: Final = Absent.ABSENT


@dataclass(frozen=True, slots=True)
class JsonDocument:
    """A whole document as a client sent it: `tree` is the parsed JSON, or a `JsonText`."""

    tree: Any

    def parsed(self) -> JsonDocument:
        """Return the same, with its JSON parsed. Raises `Malformed`."""
        return JsonDocument(parse_json(self.tree.text)) if isinstance(self.tree, JsonText) else self

    def value(self) -> Document:
        """The document that it names. Raises `Malformed`."""
        value = from_tree(self.tree)
        if not isinstance(self.tree, dict) or not isinstance(value, dict):
            raise Malformed("a document is a JSON object")
        return value

    def in_place_of(self, old: Document) -> Document:
        """The document that it makes of `old`."""
        return converted(old, self.tree, self.value())  # type: ignore[no-any-return] # an object stays one


def _shown(old: Opaque) -> Any:
    """The JSON that a client was given for it."""
    return orjson.loads(to_json(old))


def converted(old: Any, tree: Any, value: Any) -> Any:
    """`value`, which was read from the JSON `tree`, in the place of `old`: plain numbers in it take the types there.

    A number whose JSON names its type (`{"$numberInt": "6"}`) keeps that.
    """
    if type(old) is Opaque:
        return old if tree == _shown(old) else value
    if isinstance(tree, dict) and isinstance(value, dict):
        at = old if isinstance(old, Mapping) else {}
        return {name: converted(at.get(name, ABSENT), tree[name], item) for name, item in value.items()}
    if isinstance(tree, list):
        rest = itertools.chain(old if isinstance(old, list) else (), itertools.repeat(ABSENT))
        return [converted(was, *pair) for was, pair in zip(rest, zip(tree, value, strict=True), strict=False)]
    return value if isinstance(tree, dict) else keep_types(old, value)
