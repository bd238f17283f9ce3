"""The shapes of a rules file, a TOML document that has been parsed, as definitions.

    [shapes.my_orders]
    collection = "orders"
    where = { owner = "$owner", status = { "$in" = ["open", "paid"] } }
    parameters = { owner = { type = "text" } }

With `from = "claims.sub"`, a parameter takes its value from a claim of whoever asks, as soon as rules are in force.

Values are those of TOML, and Extended JSON: `{ "$oid" = "…" }`, `{ "$numberDecimal" = "0.1" }`. TOML has no
null: it is `{ "$null" = true }`. `type` is one name or a list of names (`TYPES` of `parameter_types`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, time
from typing import Any, Final

from eventsync.domain.names import check_collection
from eventsync.domain.predicates.definitions import Definition, define, define_all
from eventsync.domain.predicates.parameter_types import TYPES
from eventsync.domain.predicates.routed_shape import is_parameter_name, is_shape_name
from eventsync.domain.values.extended_json import from_tree, parse_json, to_json
from eventsync.errors import InvalidPredicate, Malformed

MAX_DEFINITIONS: Final = 48
"""Most declared shapes of one collection. MongoDB makes up to 100,000 keys of an index for one document, and an event
has the keys of two states in all of them.
"""

MAX_FILE_DEPTH: Final = 64
"""Deepest nesting of a filter or value in a rules file."""

NULL: Final = "$null"

_WRAPPERS: Final = frozenset(
    {"$oid", "$date", "$numberInt", "$numberLong", "$numberDouble", "$numberDecimal", "$binary", "$uuid", "$timestamp"}
) | {"$regularExpression", "$minKey", "$maxKey", "$code", "$ref", "$opaque"}
"""First names of objects that are one value of Extended JSON. No operator has such a name."""

TABLES: Final = frozenset({"shapes", "auth", "roles", "collections"})
"""The tables of a rules file. `domain.access.rules` reads all but the first."""

_FROM: Final = "claims."
_LONGEST_CLAIM: Final = 256
_FIELDS: Final = frozenset({"collection", "where", "parameters"})


@dataclass(frozen=True, slots=True)
class Declarations:
    """The definitions of a rules file by name, and all that is wrong in it. Those with problems are left out."""

    definitions: Mapping[str, Definition]
    problems: tuple[InvalidPredicate, ...]


def read_rules(tree: Mapping[str, Any]) -> Declarations:
    """Read a rules file, parsed from TOML. Never raises: `problems` has every error, with its place."""
    problems = [
        InvalidPredicate(
            name, "there is no such table; there are [auth], [roles], [collections.NAME.ROLE], [shapes.NAME]"
        )
        for name in tree.keys() - TABLES
    ]
    shapes = tree.get("shapes", {})
    definitions: dict[str, Definition] = {}
    if not isinstance(shapes, Mapping):
        problems.append(InvalidPredicate("shapes", "is a table: [shapes.NAME]"))
        shapes = {}
    for name, table in shapes.items():
        definition, found = _definition(name, table)
        problems += [problem.within(f"shapes.{name}") for problem in found]
        if definition is not None:
            definitions[name] = definition
    for collection, count in Counter(each.collection for each in definitions.values()).items():
        if count > MAX_DEFINITIONS:
            problems.append(InvalidPredicate("shapes", f"{collection} has {count} shapes; at most {MAX_DEFINITIONS}"))
    return Declarations(definitions, tuple(sorted(problems, key=lambda problem: problem.place)))


def _definition(name: str, table: Any) -> tuple[Definition | None, list[InvalidPredicate]]:
    if not is_shape_name(name):
        return None, [InvalidPredicate("", "a name has up to 64 of A-Z a-z 0-9 _ . - and begins with a letter or _")]
    if not isinstance(table, Mapping):
        return None, [InvalidPredicate("", "is a table with collection, where and parameters")]
    problems = [
        InvalidPredicate(key, "is unknown; there are collection, where, parameters") for key in table.keys() - _FIELDS
    ]
    try:
        check_collection(table.get("collection"))
    except Malformed as error:
        problems.append(InvalidPredicate("collection", error.message))
    parameters, claims, found = _parameters(table.get("parameters", {}))
    problems += found
    try:
        where = filter_of_tree(table.get("where", {}), "where")
    except InvalidPredicate as problem:
        return None, [*problems, problem]
    # The filter is read, too, so that its problems are seen at the same time.
    definition, found = define_all(name, str(table.get("collection")), where, parameters, claims)
    problems += [problem.within("where") for problem in found]
    return (None if problems else definition), problems


def _parameters(tree: Any) -> tuple[dict[str, frozenset[str]], dict[str, str], list[InvalidPredicate]]:
    """Return the types of each parameter, the claims of some, and all that is wrong."""
    if not isinstance(tree, Mapping):
        return {}, {}, [InvalidPredicate("parameters", 'is a table: { owner = { type = "text" } }')]
    parameters: dict[str, frozenset[str]] = {}
    claims: dict[str, str] = {}
    problems: list[InvalidPredicate] = []
    for name, declared in tree.items():
        kinds = declared.get("type") if isinstance(declared, Mapping) and declared.keys() <= {"type", "from"} else None
        if isinstance(declared, Mapping) and "from" in declared:
            if (claim := _claim(declared["from"])) is None:
                problems.append(InvalidPredicate(f"parameters.{name}.from", 'names a claim: from = "claims.sub"'))
            else:
                claims[name] = claim
        names = [kinds] if isinstance(kinds, str) else kinds
        known = (
            isinstance(names, list) and bool(names) and all(isinstance(each, str) and each in TYPES for each in names)
        )
        if not is_parameter_name(name):
            problems.append(InvalidPredicate(f"parameters.{name}", "a name has letters, digits and _"))
        elif not known:
            problems.append(
                InvalidPredicate(f"parameters.{name}", f"is {{ type = … }}, of {', '.join(TYPES)}, or a list of these")
            )
        # Known by name in any case: the filter is not to be blamed for it.
        parameters[name] = frozenset(names if known and names else ["any"])
    return parameters, claims, problems


def _claim(text: Any) -> str | None:
    """Return the path of the claim that a text names, or None."""
    named = isinstance(text, str) and text.startswith(_FROM) and len(_FROM) < len(text) <= _LONGEST_CLAIM
    return text.removeprefix(_FROM) if named and "" not in text.split(".") else None


def filter_of_tree(tree: Any, place: str = "", levels: int = MAX_FILE_DEPTH) -> Any:
    """Return a filter of BSON values for one of TOML or JSON: with Extended JSON inside, and `$null`.

    Raises `InvalidPredicate`.
    """
    if levels <= 0:
        raise InvalidPredicate(place, f"nests deeper than {MAX_FILE_DEPTH} levels")
    if isinstance(tree, Mapping):
        if list(tree) == [NULL]:
            if tree[NULL] is not True:
                raise InvalidPredicate(place, f'null is {{ "{NULL}" = true }}')
            return None
        if _WRAPPERS & tree.keys():
            return _unwrapped(tree, place)
        return {
            name: filter_of_tree(item, f"{place}.{name}" if place else name, levels - 1) for name, item in tree.items()
        }
    if isinstance(tree, list):
        return [filter_of_tree(item, f"{place}[{number}]", levels - 1) for number, item in enumerate(tree)]
    if isinstance(tree, time) or (isinstance(tree, date) and not isinstance(tree, datetime)):
        raise InvalidPredicate(place, "a date needs a time and an offset from UTC, such as 2026-01-01T00:00:00Z")
    return from_tree(tree)


def _unwrapped(tree: Mapping[str, Any], place: str) -> Any:
    try:
        return from_tree(dict(tree))
    except Malformed as error:
        raise InvalidPredicate(place, error.message) from error


# --- the text that is stored --------------------------------------------------------------------------------------


def spec_of(definition: Definition) -> str:
    """Return a definition as a text from which `read_spec` makes it again: Extended JSON, without its name."""
    parameters = {
        name: {"type": sorted(kinds), "from": f"{_FROM}{definition.claims[name]}"}
        if name in definition.claims
        else sorted(kinds)
        for name, kinds in definition.types.items()
    }
    tree = {"collection": definition.collection, "where": definition.where, "parameters": parameters}
    return to_json(tree).decode()


def read_spec(name: str, spec: str) -> Definition:
    """Return the definition of a spec. Raises `InvalidPredicate` or `Malformed` for one of another version."""
    tree = parse_json(spec.encode())
    if not isinstance(tree, dict) or tree.keys() != _FIELDS or not isinstance(tree["parameters"], dict):
        raise Malformed("a spec has collection, where and parameters")
    tables = {key: item if isinstance(item, dict) else {"type": item} for key, item in tree["parameters"].items()}
    parameters, claims, problems = _parameters(tables)
    if problems:
        raise problems[0]
    where = filter_of_tree(tree["where"], "where")
    return define(name, check_collection(tree["collection"]), where, parameters, claims)
