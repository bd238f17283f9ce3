"""The rules of a collection's validator that a document violates, read from MongoDB's reply. Pure.

The reply contains rules and values. This module passes on only the names of fields and of keywords.

Source: https://www.mongodb.com/docs/manual/core/schema-validation/handle-invalid-documents/
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, Final, NamedTuple

from eventsync.domain.stamp import FIELD

_MAX_RULES: Final = 10
"""Rules in a message. A document may violate as many as it has fields."""

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
"""Members with lists of field names."""

_CLOSED: Final = ("additionalProperties", "maxProperties")
_STRICT: Final = (
    f"a strict schema needs a place for {FIELD}, which each write sets: "
    f'"properties": {{"{FIELD}": {{"bsonType": "object"}}}}'
)


class _Rule(NamedTuple):
    """A violated rule: the keywords and field names that lead to it, and the fields that it is about."""

    path: tuple[str, ...]
    names: tuple[str, ...]

    def __str__(self) -> str:
        return ".".join(self.path) + (f" ({', '.join(self.names[:_MAX_RULES])})" if self.names else "")


def broken_rules(details: Any, hides: Callable[[str], bool] | None = None) -> str:
    """Return the violated rules in one line, such as `required (name), properties.n.bsonType`.

    Leaves out those in which a name occurs that `hides` returns True for.
    """
    found = (rule for rule in _rules(details, ()) if hides is None or not any(map(hides, (*rule.path, *rule.names))))
    rules = list(islice(dict.fromkeys(map(str, found)), _MAX_RULES + 1))
    text = ", ".join(rules[:_MAX_RULES]) or "its rules are not known"
    if len(rules) > _MAX_RULES:
        text += " and more"
    blamed = any(word in rule for rule in rules for word in (FIELD, *_CLOSED))
    return f"{text}; {_STRICT}" if blamed else text


def _rules(node: Any, path: tuple[str, ...]) -> Iterator[_Rule]:
    if isinstance(node, list):
        for item in node:
            yield from _rules(item, path)
    elif isinstance(node, Mapping):
        yield from _of_object(node, path)


def _of_object(node: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[_Rule]:
    here = (*path, *_step(node))
    inner = [rule for member in _NESTED for rule in _rules(node.get(member), here)]
    if inner:
        yield from inner
    elif here:
        yield _Rule(here, tuple(str(name) for member in _NAMES for name in _listed(node.get(member))))


def _step(node: Mapping[str, Any]) -> Iterator[str]:
    """Yield the part of a rule's path that an object of the reply stands for."""
    operator = node.get("operatorName")
    if isinstance(operator, str) and operator != "$jsonSchema":
        yield from _fields_of(operator, node.get("specifiedAs"))
        yield operator
    for member in ("propertyName", "conditionalProperty", "itemIndex", "index"):
        if isinstance(name := node.get(member), str | int):
            yield str(name)


def _fields_of(operator: str, specified: Any) -> Iterator[str]:
    """Yield the field that a query operator tests: `n` for `{"n": {"$gt": 5}}`."""
    if operator.startswith("$") and isinstance(specified, Mapping) and len(specified) == 1:
        (name,) = specified
        if not name.startswith("$"):
            yield name


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else []
