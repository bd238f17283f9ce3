"""Explanations of rules: what a principal may do with a document or in a collection, and by which rule of a role."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eventsync.domain.access.claims import UnusableClaim, bound
from eventsync.domain.access.grants import Claims, RoutedRule
from eventsync.domain.access.guards import Rule, bound_rule
from eventsync.domain.access.principal import Principal
from eventsync.domain.access.rules import AccessRules, RoleRules
from eventsync.domain.patches.diff import diff
from eventsync.domain.values.extended_json import to_json
from eventsync.errors import InvalidPredicate


def explained(rules: AccessRules, principal: Principal, collection: str, document: Any | None) -> dict[str, Any]:
    """Return what a principal may do in a collection, with the reasons, role by role.

    With a document, say what its rules decide for it; without, what they are for the principal.
    """
    roles = rules.roles_of(principal)
    of_collection = rules.of(collection)
    grant = of_collection.grant(roles, principal.rule_claims)
    tree: dict[str, Any] = {"sub": principal.sub, "roles": sorted(roles), "collection": collection}
    if document is None:
        tree["may_read"] = False if grant is None else True if grant.everything else grant.filter
    else:
        tree["may_read"] = grant is not None and grant.allows(document)
    if grant is not None and grant.redaction is not None:
        tree["hidden"] = grant.redaction.paths
        if document is not None:
            tree["hidden_here"] = [step["path"] for step in diff(document, grant.redaction.strip(document))]
    if grant is not None:
        tree["scope"] = grant.digest.hex()[:8]
        tree["parts"] = [part.name for part in grant.parts]
    tree["because"] = [_of_role(each, principal.claims, document) for each in of_collection.of(roles)]
    if not tree["because"]:
        tree["reason"] = f"no rule of {collection} is for any of these roles"
    return tree


def _of_role(rules: RoleRules, claims: Claims, document: Any | None) -> dict[str, Any]:
    tree: dict[str, Any] = {"role": rules.role}
    tree["read"] = _read(rules.read, rules.tree.get("read", False), claims, document)
    for name in ("create", "update", "after", "delete"):
        if name in rules.tree:
            tree[name] = _written(rules.tree[name], claims, document)
    return tree


def _read(read: bool | RoutedRule, rule: Rule, claims: Claims, document: Any | None) -> str:
    if isinstance(read, bool) or isinstance(rule, bool):
        return "allows everything" if read else "allows nothing"
    try:
        parts = read.parts(claims)
    except UnusableClaim as error:
        return f"allows nothing: {error}"
    if document is None:
        return f"allows what {_text(rule)} matches" if parts else "allows nothing: a list of claims is empty"
    matching = next((part for part in parts if part.admits(document)), None)
    if matching is None:
        return f"does not match {_text(rule)}"
    return f"allows it by {_text(matching.filter)}"


def _written(rule: Rule, claims: Claims, document: Any | None) -> str:
    if isinstance(rule, bool):
        return "allows everything" if rule else "allows nothing"
    try:
        filter_ = bound(rule, claims)
    except (UnusableClaim, InvalidPredicate) as error:
        return f"allows nothing: {error}"
    if document is None:
        return f"allows what {_text(filter_)} matches"
    return f"{'matches' if bound_rule(rule, claims)(document) else 'does not match'} {_text(filter_)}"


def _text(filter_: Mapping[str, Any]) -> str:
    return to_json(filter_).decode()
