"""Review of rules that can be applied, for what is probably not meant."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from eventsync.access.secret_file import read_secret
from eventsync.domain.access.auth import AuthSettings
from eventsync.domain.access.principal import OBSERVER, OPERATOR
from eventsync.domain.access.redaction import Paths
from eventsync.domain.access.rules import EVERY, AccessRules, RoleRules
from eventsync.domain.predicates.parsing import LOGICAL
from eventsync.errors import ConfigurationError
from eventsync.stores.stores import Stores

SAMPLE: Final = 200
"""Newest documents of a collection that are searched for the fields of its rules."""


def warnings(rules: AccessRules) -> Iterator[str]:
    """Yield what is suspicious in the rules themselves."""
    if not any(rules.tables.values()):
        yield "[auth] without any rule in [collections]: nobody may read or write anything"
    ruled = {role for table in rules.tables.values() for role in table}
    for role in sorted(rules.roles.keys() - ruled - {OPERATOR, OBSERVER}):
        yield f"roles.{role}: no rule is for this role"
    for role in sorted(ruled - rules.roles.keys()):
        yield f"{role} has rules and is none of [roles]: only a service key can have it"
    for collection, table in sorted(rules.tables.items()):
        yield from _redactions(collection, [each for each in table.values() if each.read is not False])
        yield from _unreadable(collection, table, rules.tables.get(EVERY, {}))


def unusable_secrets(auth: AuthSettings) -> Iterator[str]:
    """Yield why secrets of issuers can't be used here. For a thread: it reads the files."""
    for issuer in auth.issuers:
        if issuer.secret_file is not None:
            try:
                read_secret(issuer.secret_file)
            except ConfigurationError as error:
                yield f"auth: tokens of {issuer.iss} can't be verified by this user on this machine: {error.message}"


def _unreadable(collection: str, table: Mapping[str, RoleRules], every: Mapping[str, RoleRules]) -> Iterator[str]:
    """Yield the roles that may change documents, in a collection of which nobody may read any."""
    if any(each.read is not False for each in (*table.values(), *every.values())):
        return
    for role, rules in table.items():
        if rules.tree.get("update") or rules.tree.get("delete"):
            yield f"collections.{collection}: {role} may change documents, and nobody may read any of them"


def _redactions(collection: str, table: Sequence[RoleRules]) -> Iterator[str]:
    for number, one in enumerate(table):
        for other in table[number + 1 :]:
            if one.redaction == other.redaction:
                continue
            if any(
                each.read is True and each.redaction.is_within(rest.redaction)
                for each, rest in ((one, other), (other, one))
            ):
                continue
            yield (
                f"collections.{collection}: {one.role} and {other.role} hide differently;"
                " a principal with both roles sees what neither of them hides"
            )


async def unknown_fields(stores: Stores, rules: AccessRules) -> list[str]:
    """Return the fields of rules that no document of a sample has. Raises `Unavailable`."""
    found: list[str] = []
    for collection, table in sorted(rules.tables.items()):
        if collection == EVERY or not any(_paths(table.values())):
            continue
        missing, count = {path: Paths([tuple(path.split("."))]) for path in _paths(table.values())}, 0
        # One at a time: a document may have 16 MiB.
        async for document in stores.data[collection].find(batch_size=2).sort("_id", -1).limit(SAMPLE):
            count += 1
            missing = {path: lookup for path, lookup in missing.items() if not lookup.only(document)}
            if not missing:
                break
        if count:
            found += [f"collections.{collection}: no document of {count} has {path}" for path in sorted(missing)]
    return found


def _paths(table: Iterable[RoleRules]) -> set[str]:
    found: set[str] = set()
    for rules in table:
        for name, rule in rules.tree.items():
            if isinstance(rule, list):
                found.update(rule)
            elif isinstance(rule, Mapping) and name not in {"hide", "fields", "fixed"}:
                found.update(_fields(rule))
    return found


def _fields(where: Mapping[str, Any]) -> Iterator[str]:
    for name, value in where.items():
        if name in LOGICAL:
            for part in value:
                yield from _fields(part)
        else:
            yield name


def labels(rules: AccessRules) -> dict[str, str]:
    """Return what each definition of a read rule stands for, by its name."""
    found: dict[str, set[str]] = {}
    for table in rules.tables.values():
        for role, each in table.items():
            for definition in each.definitions:
                found.setdefault(definition.name, set()).add(role)
    return {name: f"read of {', '.join(sorted(roles))}" for name, roles in found.items()}
