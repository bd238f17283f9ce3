"""A JSON Schema validator for what our OpenAPI document uses, and no more: an unknown keyword is an error."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

_TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
}


def resolve(document: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    """Return the node that a `$ref` names; any other node is returned as it is. Raises `KeyError`."""
    if "$ref" not in node:
        return node
    target: Any = document
    for token in node["$ref"].removeprefix("#/").split("/"):
        target = target[token]
    return dict(target)


def faults(document: dict[str, Any], schema: dict[str, Any], value: Any, path: str = "") -> Iterator[str]:
    """Return the reasons why `value` is not of `schema`. Members that a schema does not name are faults too."""
    schema = resolve(document, schema) | {key: item for key, item in schema.items() if key != "$ref"}
    if unknown := schema.keys() - _KNOWN:
        yield f"{path}: the validator does not know {sorted(unknown)}"
    if "type" in schema and not _is(value, schema["type"]):
        yield f"{path}: {value!r} is no {schema['type']}"
        return
    for keywords, check in _CHECKS:
        if keywords & schema.keys():
            yield from check(document, schema, value, path)


def _is(value: Any, types: str | list[str]) -> bool:
    names = [types] if isinstance(types, str) else types
    return any(isinstance(value, _TYPES[name]) and (name == "boolean" or not isinstance(value, bool)) for name in names)


def _object(document: dict[str, Any], schema: dict[str, Any], value: Any, path: str) -> Iterator[str]:
    if not isinstance(value, dict):
        return
    named = schema.get("properties", {})
    yield from (f"{path}: {name} is missing" for name in schema.get("required", ()) if name not in value)
    for name, item in value.items():
        if name in named:
            yield from faults(document, named[name], item, f"{path}/{name}")
        elif "additionalProperties" in schema:
            yield from faults(document, schema["additionalProperties"], item, f"{path}/{name}")
        elif named:
            yield f"{path}: {name} is not documented"


def _array(document: dict[str, Any], schema: dict[str, Any], value: Any, path: str) -> Iterator[str]:
    if not isinstance(value, list):
        return
    if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
        yield f"{path}: {len(value)} items"
    for index, item in enumerate(value):
        yield from faults(document, schema.get("items", {}), item, f"{path}/{index}")


def _text(_document: dict[str, Any], schema: dict[str, Any], value: Any, path: str) -> Iterator[str]:
    if not isinstance(value, str):
        return
    if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)):
        yield f"{path}: {len(value)} characters"
    if "pattern" in schema and not re.search(schema["pattern"], value):
        yield f"{path}: {value!r} does not match {schema['pattern']}"


def _number(_document: dict[str, Any], schema: dict[str, Any], value: Any, path: str) -> Iterator[str]:
    if isinstance(value, int | float) and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        yield f"{path}: {value} is out of bounds"


def _choice(_document: dict[str, Any], schema: dict[str, Any], value: Any, path: str) -> Iterator[str]:
    allowed = schema.get("enum", [schema.get("const")])
    if value not in allowed:
        yield f"{path}: {value!r} is none of {allowed}"


def _alternatives(document: dict[str, Any], schema: dict[str, Any], value: Any, path: str) -> Iterator[str]:
    options = schema.get("anyOf") or schema["oneOf"]
    matching = [option for option in options if not list(faults(document, option, value, path))]
    if not matching or ("oneOf" in schema and len(matching) > 1):
        yield f"{path}: {value!r} is of {len(matching)} of the alternatives"


_CHECKS = (
    ({"properties", "additionalProperties", "required"}, _object),
    ({"items", "minItems", "maxItems"}, _array),
    ({"minLength", "maxLength", "pattern"}, _text),
    ({"minimum", "maximum"}, _number),
    ({"enum", "const"}, _choice),
    ({"anyOf", "oneOf"}, _alternatives),
)
_KNOWN = {"type", "$ref", "description", "format", "default"}.union(*(keywords for keywords, _ in _CHECKS))
