"""Declared shapes with their parameters, as text, and the texts of parameters' values."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, unquote

from bson.decimal128 import Decimal128

from eventsync.domain.ids import format_id, parse_id
from eventsync.domain.values.extended_json import from_tree, parse_json
from eventsync.domain.values.numbers import canonical_number
from eventsync.errors import Malformed

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
    if not text:
        raise Malformed("a parameter has no value: the empty text is str:, and null is null:")
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
