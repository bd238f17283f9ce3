"""Rules tried on cases.

Cases are principals, documents and operations, each with the expected outcome:

    [[case]]
    name = "an owner pays its order"
    claims = { sub = "ada" }
    collection = "orders"
    document = { owner = "ada", status = "new", margin = 5 }
    operation = "update"
    set = { status = "paid" }
    expect = "allow"
    shows = ["status"]
    hides = ["margin"]

`roles` are roles that are given directly, as to a service key. `set` has the fields that an update sets. `shows` and
`hides` are paths of the answer. A document is read as it is in JSON, with Extended JSON inside.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from eventsync.domain.access.principal import Principal
from eventsync.domain.access.redaction import Paths
from eventsync.domain.access.rules import AccessRules
from eventsync.domain.predicates.declarations import filter_of_tree
from eventsync.domain.values.extended_json import Document
from eventsync.errors import ConfigurationError, Forbidden, InvalidPredicate, NotFound
from eventsync.rules.file import content_of

OPERATIONS: Final = ("read", "create", "update", "delete")
MAX_BYTES: Final = 4 * 1024 * 1024
"""Most bytes of a file of cases."""

_FIELDS: Final = frozenset(
    {"name", "claims", "roles", "collection", "document", "operation", "set", "expect", "shows", "hides"}
)


@dataclass(frozen=True, slots=True)
class Case:
    """A principal that asks for an operation, and what is to come of it."""

    name: str
    principal: Principal
    collection: str
    document: Document
    operation: str
    changes: Document
    allowed: bool
    shows: tuple[str, ...]
    hides: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of a case, and what is wrong with it, or nothing."""

    case: Case
    outcome: str
    wrong: str


def read_cases(path: Path) -> list[Case]:
    """Read a file of cases, TOML or JSON. Raises `ConfigurationError`."""
    content = content_of(path, "the file of cases", MAX_BYTES)
    try:
        tree = orjson.loads(content) if path.suffix == ".json" else tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"the cases {path} are neither TOML nor JSON: {error}") from error
    listed = tree.get("case") if isinstance(tree, dict) else tree
    if not isinstance(listed, list) or not listed:
        raise ConfigurationError(f"the cases {path} are tables [[case]], or a list in JSON")
    return [_case(item, f"the cases {path}: case {number}") for number, item in enumerate(listed, 1)]


def _case(tree: Any, place: str) -> Case:
    if not isinstance(tree, Mapping):
        raise ConfigurationError(f"{place} is no table")
    place += f" ({tree['name']})" if "name" in tree else ""
    if unknown := sorted(map(str, tree.keys() - _FIELDS)):
        raise ConfigurationError(f"{place} has {unknown[0]}; there are {', '.join(sorted(_FIELDS))}")
    claims, operation = tree.get("claims", {}), tree.get("operation", "read")
    if not isinstance(claims, Mapping) or not isinstance(tree.get("collection"), str):
        raise ConfigurationError(f"{place} needs a collection, and claims that are a table")
    if operation not in OPERATIONS or tree.get("expect") not in {"allow", "deny"}:
        raise ConfigurationError(f'{place}: operation is one of {", ".join(OPERATIONS)}, and expect "allow" or "deny"')
    try:
        document, changes = (filter_of_tree(tree.get(name, {}), name) for name in ("document", "set"))
    except InvalidPredicate as error:
        raise ConfigurationError(f"{place}: {error.message}") from error
    lists = [tree.get(name, []) for name in ("roles", "shows", "hides")]
    if not isinstance(document, dict) or not isinstance(changes, dict) or not all(map(_is_list_of_texts, lists)):
        raise ConfigurationError(f"{place}: document and set are tables, and roles, shows, hides lists of texts")
    sub = str(claims.get("sub", ""))
    return Case(
        str(tree.get("name", "")),
        Principal(sub, dict(claims), frozenset(lists[0])),
        tree["collection"],
        {"_id": 1} | document,
        operation,
        changes,
        tree["expect"] == "allow",
        tuple(lists[1]),
        tuple(lists[2]),
    )


def _is_list_of_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) and item for item in value)


def tried(rules: AccessRules, case: Case) -> Verdict:
    """Try a case."""
    guard, shown = rules.guard(case.principal, case.collection), None
    try:
        if case.operation == "read":
            shown = guard.shown(case.document)
        elif case.operation == "create":
            guard.create(case.document)
            shown = guard.shown(case.document)
        elif case.operation == "update":
            shown = guard.shown(guard.edit(case.document, lambda seen: seen | case.changes))
        else:
            guard.delete(case.document)
        allowed = case.operation != "read" or shown is not None
        outcome = "allow" if allowed else "deny: not found"
    except Forbidden as error:
        allowed, outcome = False, f"deny: {error.message}"
    except NotFound:
        allowed, outcome = False, "deny: not found"
    return Verdict(case, outcome, _wrong(case, shown, allowed=allowed))


def _wrong(case: Case, shown: Document | None, *, allowed: bool) -> str:
    if allowed is not case.allowed:
        return "it is allowed" if allowed else "it is denied"
    for path in case.shows:
        if not _has(shown, path):
            return f"{path} is not shown"
    return next((f"{path} is shown" for path in case.hides if _has(shown, path)), "")


def _has(document: Document | None, path: str) -> bool:
    return document is not None and bool(Paths([tuple(path.split("."))]).only({"": None} | document))
