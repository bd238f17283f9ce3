"""Rules without a file, and what they let a principal see and change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eventsync.domain.access.guards import WriteGuard
from eventsync.domain.access.principal import Principal
from eventsync.domain.access.rules import AccessRules, read_access

AUTH: dict[str, Any] = {"issuers": []}
MINE = {"owner": "$claims.sub"}
OWNERS: dict[str, Any] = {
    "read": {"$or": [MINE, {"public": True}]},
    "create": MINE,
    "update": MINE,
    "delete": MINE,
    "hide": ["secret", "lines.cost"],
}
"""Owners read and write what is theirs, everybody reads what is public, and nobody sees some fields."""


def rules(collections: Mapping[str, Any], roles: Mapping[str, Any] | None = None) -> AccessRules:
    """Return rules for these collections, with a role `user` that everybody has."""
    found, problems = read_access(
        {"auth": AUTH, "roles": {"user": True} | dict(roles or {}), "collections": collections}
    )
    assert found is not None, problems
    return found


def guard(sub: str, table: Mapping[str, Any] = OWNERS, collection: str = "c") -> WriteGuard:
    """Return what `sub` may write of a collection."""
    return rules({collection: {"user": table}}).guard(Principal(sub), collection)
