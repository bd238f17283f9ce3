"""JSON Schema for our OpenAPI document: members that a schema does not name, and unknown keywords, are faults."""

from __future__ import annotations

from typing import Any

import jsonschema_rs

_KNOWN = {
    *("$ref", "additionalProperties", "anyOf", "const", "default", "description", "enum", "format", "items"),
    *("maxItems", "maxLength", "maximum", "minItems", "minLength", "minimum", "oneOf", "pattern", "properties"),
    *("required", "type"),
}


def resolve(document: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    """Return the node that a `$ref` names; any other node is returned as it is. Raises `KeyError`."""
    if "$ref" not in node:
        return node
    target: Any = document
    for token in node["$ref"].removeprefix("#/").split("/"):
        target = target[token]
    return dict(target)


def faults(document: dict[str, Any], schema: dict[str, Any], value: Any) -> list[str]:
    """Return the reasons why `value` is not of `schema`."""
    named = {name: _closed(item) for name, item in document["components"]["schemas"].items()}
    whole = _closed(schema) | {"components": {"schemas": named}}
    return [str(error) for error in jsonschema_rs.Draft202012Validator(whole).iter_errors(value)]


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema, by which objects have no members but those that it names. Raises `ValueError`."""
    if unknown := schema.keys() - _KNOWN:
        raise ValueError(f"unknown keywords: {sorted(unknown)}")
    closed = dict(schema)
    if "properties" in schema:
        closed["properties"] = {name: _closed(item) for name, item in schema["properties"].items()}
        closed.setdefault("additionalProperties", False)
    for keyword in ("items", "additionalProperties"):
        if isinstance(schema.get(keyword), dict):
            closed[keyword] = _closed(schema[keyword])
    for keyword in schema.keys() & {"anyOf", "oneOf"}:
        closed[keyword] = [_closed(item) for item in schema[keyword]]
    return closed
