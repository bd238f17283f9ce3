"""The rules of a collection's validator that a document broke, read from MongoDB's answer. Pure.

MongoDB names the rule, the value that broke it and the whole rule. Only names leave here: of fields, and of keywords.

Source: https://www.mongodb.com/docs/manual/core/schema-validation/handle-invalid-documents/
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Final

from eventsync.domain.stamp import FIELD

_MOST: Final = 10
"""Rules that are named; there may be as many as a document has fields."""

_NESTED: Final = (
    "details",
    "schemaRulesNotSatisfied",
    "propertiesNotSatisfied",
    "schemasNotSatisfied",
    "clausesNotSatisfied",
    "clausesSatisfied",
    "failingDependencies",
)
_NAMES: Final = ("missingProperties", "additionalProperties")
"""Members that list names of fields."""

_CLOSED: Final = ("additionalProperties", "maxProperties")
_STRICT: Final = (
    f"a strict schema needs a place for {FIELD}, which each write sets: "
    f'"properties": {{"{FIELD}": {{"bsonType": "object"}}}}'
)


def broken_rules(details: Any) -> str:
    """The broken rules in one line, such as `required (name), properties.n.bsonType`. Empty details name none."""
    found = list(islice(dict.fromkeys(_rules(details, ())), _MOST + 1))
    text = ", ".join(found[:_MOST]) or "its rules are not known"
    if len(found) > _MOST:
        text += " and more"
    blamed = any(word in rule for rule in found for word in (FIELD, *_CLOSED))
    return f"{text}; {_STRICT}" if blamed else text


def _rules(node: Any, path: tuple[str, ...]) -> Iterator[str]:
    if isinstance(node, list):
        for item in node:
            yield from _rules(item, path)
    elif isinstance(node, Mapping):
        yield from _of_object(node, path)


def _of_object(node: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    here = (*path, *_step(node))
    inner = [rule for member in _NESTED for rule in _rules(node.get(member), here)]
    if inner:
        yield from inner
    elif here:
        names = [str(name) for member in _NAMES for name in _listed(node.get(member))]
        yield ".".join(here) + (f" ({', '.join(names[:_MOST])})" if names else "")


def _step(node: Mapping[str, Any]) -> Iterator[str]:
    """The part of a rule's path that an object of the answer stands for."""
    operator = node.get("operatorName")
    if isinstance(operator, str) and operator != "$jsonSchema":
        yield from _fields_of(operator, node.get("specifiedAs"))
        yield operator
    for member in ("propertyName", "conditionalProperty", "itemIndex", "index"):
        if isinstance(name := node.get(member), str | int):
            yield str(name)


def _fields_of(operator: str, specified: Any) -> Iterator[str]:
    """The field that a query operator looks at: `{"n": {"$gt": 5}}` names `n`."""
    if operator.startswith("$") and isinstance(specified, Mapping) and len(specified) == 1:
        (name,) = specified
        if not name.startswith("$"):
            yield name


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else []
