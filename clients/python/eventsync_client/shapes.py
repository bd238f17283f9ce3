"""The texts of ids and shapes, in the canonical form by which the server answers."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote, unquote

Value = Any
"""A parameter's value: text, a number, a boolean, None, a UUID, a date, an ObjectId; or a list of these."""

_OBJECT_ID: Final = re.compile(r"[0-9a-f]{24}", re.ASCII)
_ID_PREFIXES: Final = ("int:", "uuid:", "str:", "ejson:")
_PREFIXES: Final = (*_ID_PREFIXES, "bool:", "null:")


def id_text(value: Value) -> str:
    """Return the text of a document's id. Text is one already, as the server gives it. Raises `TypeError`."""
    return value if isinstance(value, str) else _typed(value)


def shape_text(name: str, parameters: Mapping[str, Value]) -> str:
    """Return the text of a shape: a collection, `collection/id`, or a declared shape with its parameters.

    A string is text, whatever it looks like. Raises `TypeError` for a value that has no text here, and `ValueError` for
    text that has no UTF-8.
    """
    name.encode()
    if not parameters:
        return _canonical(name)
    pairs: list[tuple[str, str]] = []
    for key, value in parameters.items():
        values = value if isinstance(value, list | tuple | set | frozenset) else [value]
        pairs += [(key, _value_text(item)) for item in values]
    return _joined(name.removesuffix("?"), pairs)


def _canonical(text: str) -> str:
    collection, slash, rest = text.partition("/")
    if "?" not in collection:
        return collection + slash + _canonical_id(rest)
    name, _, query = text.partition("?")
    pairs = [pair.partition("=")[::2] for pair in query.split("&") if pair]
    return _joined(name, [(key, _plain(unquote(value))) for key, value in pairs])


def _canonical_id(text: str) -> str:
    """Return the text of the same id by which the server answers. Text that only the server can read stays."""
    if not text or text.startswith("int:") or _OBJECT_ID.fullmatch(text):
        return text
    prefix, colon, rest = text.partition(":")
    try:
        value = _READ[prefix](rest) if colon and prefix in _READ else text
        if isinstance(value, str):
            value.encode()
            return _text(value, _ID_PREFIXES)
    except (ValueError, RecursionError):
        return text
    return _typed(value) if isinstance(value, uuid.UUID) or type(value) is int else text


_READ: Final[dict[str, Callable[[str], Any]]] = {"str": str, "uuid": uuid.UUID, "ejson": json.loads}


def _joined(name: str, pairs: list[tuple[str, str]]) -> str:
    return f"{name}?" + "&".join(f"{key}={quote(text, safe=':')}" for key, text in sorted(set(pairs)))


def _plain(text: str) -> str:
    """Return a value's text without a `str:` that changes nothing."""
    rest = text.removeprefix("str:")
    return text if rest == text or _text(rest, _PREFIXES) != rest else rest


def _value_text(value: Value) -> str:
    if value is None:
        return "null:"
    if isinstance(value, bool):
        return f"bool:{value}".lower()
    if isinstance(value, str):
        return _text(value, _PREFIXES)
    return _typed(value)


def _text(value: str, prefixes: tuple[str, ...]) -> str:
    if "\0" in value:
        return "ejson:" + json.dumps(value, ensure_ascii=False)
    ambiguous = value in {"", ".", ".."} or value.startswith(prefixes) or _OBJECT_ID.fullmatch(value)
    return f"str:{value}" if ambiguous else value


def _typed(value: Value) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"int:{int(value)}"
    if isinstance(value, float):
        return f"int:{int(value)}" if value.is_integer() else f"ejson:{json.dumps(value)}"
    if isinstance(value, uuid.UUID):
        return f"uuid:{value}"
    if isinstance(value, datetime):
        at = value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
        precision = "milliseconds" if at.microsecond >= 1000 else "seconds"
        text = at.isoformat(timespec=precision).replace("+00:00", "Z")
        return "ejson:" + json.dumps({"$date": text}, separators=(",", ":"))
    if type(value).__name__ == "ObjectId":
        return str(value)
    raise TypeError(f"{type(value).__name__} has no text as an id or a parameter")
