"""Shapes: what a client subscribes to."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol
from urllib.parse import quote, unquote

from bson.decimal128 import Decimal128

from eventsync.domain.ids import IdText, format_id, parse_id
from eventsync.domain.values.extended_json import from_tree, parse_json
from eventsync.domain.values.numbers import canonical_number
from eventsync.errors import Malformed, NotTracked

MAX_COLLECTION_BYTES = 120
"""Longest collection name accepted. MongoDB allows 255 bytes for database and collection together."""


MAX_DATABASE_BYTES = 63
"""Longest database name that MongoDB allows."""

_MONGODBS_OWN = frozenset({"admin", "config", "local"})
_NOT_IN_COLLECTION = frozenset("$/?")
_NOT_IN_DATABASE = frozenset('/\\. "$*<>:|?\0')


def check_database(name: str) -> str:
    """Return `name` if it is a valid database name here. Raises `Malformed`."""
    if name in _MONGODBS_OWN:
        raise Malformed(f"{name!r} is MongoDB's own database")
    if not _NOT_IN_DATABASE.isdisjoint(name) or len(name.encode("utf-8", "surrogatepass")) > MAX_DATABASE_BYTES:
        raise Malformed(f'a database name has no /\\. "$*<>:|? and at most {MAX_DATABASE_BYTES} bytes')
    return name


def check_collection(name: object) -> str:
    """Return `name` if it is a valid name of a tracked collection. Raises `Malformed`. Every name is checked here.

    `/` would make shapes ambiguous, `$` and `system.` are reserved by MongoDB, and the driver refuses `..`.
    """
    if not isinstance(name, str) or not name or len(name.encode("utf-8", "surrogatepass")) > MAX_COLLECTION_BYTES:
        raise Malformed(f"a collection name has 1 to {MAX_COLLECTION_BYTES} bytes")
    if (
        name.startswith(("system.", "."))
        or name.endswith(".")
        or ".." in name
        or not name.isprintable()
        or not _NOT_IN_COLLECTION.isdisjoint(name)
    ):
        raise Malformed(f"{name!r} can't be a collection name here")
    return name


def not_tracked(name: str) -> NotTracked:
    """Return the error for a collection that is not tracked, with the remedy."""
    if "*" in name:
        remedy = "there is no wildcard: name one collection"
    else:
        remedy = f"`eventsync track {shlex.quote(name)}` changes that"
    return NotTracked(f"the collection {name!r} is not tracked; {remedy}")


MAX_SHAPE_BYTES: Final = 4096
"""Longest text of a shape with parameters."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}", re.ASCII)
_PARAMETER_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}", re.ASCII)
_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_CONSTANTS: Final[Mapping[str, Any]] = {"bool:true": True, "bool:false": False, "null:": None}


def is_shape_name(name: object) -> bool:
    """Return True if a text can be the name of a declared shape."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def is_parameter_name(name: object) -> bool:
    """Return True if a text can be the name of a parameter."""
    return isinstance(name, str) and _PARAMETER_NAME.fullmatch(name) is not None


def format_value(value: Any) -> str:
    """Return the canonical text of a parameter's value: that of an id, besides `bool:true`, `bool:false`, `null:`.

    Equal numbers have one text. Raises `Malformed` for a value that no document can hold.
    """
    if value is None:
        return "null:"
    if isinstance(value, bool):
        return f"bool:{value}".lower()
    if isinstance(value, str) and value.startswith(("bool:", "null:")):
        return f"str:{value}"
    return format_id(_canonical(value))


def _canonical(value: Any) -> Any:
    if isinstance(value, int | float | Decimal128) and not isinstance(value, bool):
        return canonical_number(value)
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    if isinstance(value, Mapping):
        return {name: _canonical(item) for name, item in value.items()}
    return value


def parse_value(text: str) -> Any:
    """Return the value for a text. Raises `Malformed`."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    kind, colon, rest = text.partition(":")
    if colon and kind in {"bool", "null"}:
        raise Malformed(f"{text!r} is not a value: expected bool:true, bool:false, null:, or str: before a text")
    if colon and kind == "ejson":
        return from_tree(parse_json(rest.encode("utf-8", "surrogatepass")))
    return parse_id(text)


@dataclass(frozen=True, slots=True)
class RoutedShape:
    """A declared shape with its parameters: `my_orders?owner=7&state=open`. Equal shapes have equal text.

    `values` has the texts of each parameter's values, all sorted: a parameter that stands for a list has several.
    The `?` is always there, and tells a declared shape from a collection.
    """

    name: str
    values: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def __str__(self) -> str:
        pairs = (f"{name}={quote(text, safe=':')}" for name, texts in self.values for text in texts)
        return f"{self.name}?{'&'.join(pairs)}"

    @classmethod
    def of(cls, name: str, values: Mapping[str, Collection[Any]]) -> RoutedShape:
        """Make the shape for these values. Raises `Malformed` for one that is too long."""
        texts = ((key, tuple(sorted({format_value(value) for value in items}))) for key, items in values.items())
        shape = cls(name, tuple(sorted(texts)))
        _check_length(str(shape))
        return shape

    @classmethod
    def parse(cls, text: object) -> RoutedShape:
        """Read the text form and bring it into its canonical form. Raises `Malformed`."""
        if not isinstance(text, str):
            raise Malformed("a shape is a string")
        _check_length(text)
        name, mark, query = text.partition("?")
        if not mark or not is_shape_name(name):
            raise Malformed("a shape with parameters is a name, `?`, and parameters: my_orders?owner=7&state=open")
        values: dict[str, list[Any]] = {}
        for pair in query.split("&") if query else ():
            key, equals, value = pair.partition("=")
            if not equals or not is_parameter_name(key):
                raise Malformed(f"{pair[:80]!r} is no parameter: expected name=value")
            values.setdefault(key, []).append(parse_value(_unquoted(value)))
        return cls.of(name, values)

    def parameters(self) -> dict[str, list[Any]]:
        """Return the values of each parameter."""
        return {name: [parse_value(text) for text in texts] for name, texts in self.values}


def _check_length(text: str) -> None:
    if len(text.encode("utf-8", "surrogatepass")) > MAX_SHAPE_BYTES:
        raise Malformed(f"a shape has at most {MAX_SHAPE_BYTES} bytes")


def _unquoted(text: str) -> str:
    if _ESCAPE.search(text):
        raise Malformed(f"{text[:80]!r} has a % without two hex digits; % itself is %25")
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError as error:
        raise Malformed(f"{text[:80]!r} is not percent-encoded UTF-8") from error


Topic = str | tuple[str, IdText] | bytes
"""A collection, a document, or a key. (Shapes would take five times as long to make and to hash.)"""


class ShapeRoute(Protocol):
    """A definition with its parameters bound: the part of a collection that a declared shape stands for."""

    @property
    def collection(self) -> str:
        """The collection."""

    @property
    def key(self) -> bytes:
        """The key that names this part: its only one, or made of all of them."""

    @property
    def keys(self) -> frozenset[bytes]:
        """The keys that events of this part have, 16 bytes each."""

    @property
    def filter(self) -> Mapping[str, Any]:
        """The filter that finds the documents of this part."""

    @property
    def scope(self) -> str:
        """8 hex digits of everything that decides what is in this part. They are in each of its positions."""

    @property
    def since(self) -> int:
        """The seq after which events have the keys."""

    @property
    def revision(self) -> int:
        """The revision of the registry at the definition's activation."""

    def admits(self, document: Mapping[str, Any]) -> bool:
        """Return True if a document that the filter has found has one of the keys. Stamps are ignored."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A collection (`orders`), one document of it (`orders/42`), or a declared shape (`my_orders?owner=7`).

    Equal shapes have equal text. A declared shape gets its route when it is bound by its definition.
    """

    name: str
    id: IdText | None = None
    declared: RoutedShape | None = None
    route: ShapeRoute | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        if self.declared is not None:
            return str(self.declared)
        return self.name if self.id is None else f"{self.name}/{self.id}"

    @property
    def collection(self) -> str:
        """The collection. A declared shape has one once it is bound."""
        if self.declared is None:
            return self.name
        if self.route is None:
            raise ValueError(f"{self} is not bound")
        return self.route.collection

    @property
    def scope(self) -> str:
        """The scope in the shape's positions; empty for a collection or a document."""
        return "" if self.route is None else self.route.scope

    @property
    def topic(self) -> Topic:
        """The key of the shape in a window. That of a declared shape depends on its definition, which may change."""
        if self.route is not None:
            return self.route.key
        return self.collection if self.id is None else (self.name, self.id)

    @classmethod
    def parse(cls, text: object) -> Shape:
        """Read the text form and bring the id or the parameters into canonical form. Raises `Malformed`."""
        if not isinstance(text, str):
            raise Malformed("a shape is a string: a collection, collection/id, or name?parameter=value")
        collection, slash, rest = text.partition("/")
        # An id may contain a question mark, and a value of a parameter a slash.
        if "?" in collection:
            declared = RoutedShape.parse(text)
            return cls(declared.name, None, declared)
        check_collection(collection)
        return cls(collection, format_id(parse_id(rest)) if slash else None)
