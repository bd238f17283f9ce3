"""The access control: what a principal was granted, under rules that replace others."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any, cast

import pytest

from eventsync.access.access import Access
from eventsync.access.authenticator import Authenticated
from eventsync.access.control import AccessControl
from eventsync.domain.access.principal import Principal
from eventsync.domain.access.rules import AccessRules, read_access
from eventsync.settings import Settings
from eventsync.stores.stores import Credentials

ADA = Principal("ada", {"sub": "ada", "staff": True}, credential="key:k1")
TREE: dict[str, Any] = {
    "auth": {},
    "roles": {"user": True, "staff": {"staff": True}},
    "collections": {
        "orders": {"user": {"read": {"owner": "$claims.sub", "level": 1}, "update": True, "hide": ["margin"]}},
        "users": {"staff": {"read": {"name": "$claims.sub"}}},
        "*": {"staff": {"delete": True}},
    },
}


def rules(change: dict[str, Any] | None = None) -> AccessRules:
    """Return the rules, with some members of the tree changed; they are named by paths with slashes."""
    tree = copy.deepcopy(TREE)
    for path, value in (change or {}).items():
        *way, last = path.split("/")
        table = tree
        for name in way:
            table = table.setdefault(name, {})
        table[last] = value
    found, problems = read_access(tree)
    assert found is not None, problems
    return found


class System:
    """A control whose rules a test replaces."""

    def __init__(self) -> None:
        self.control = AccessControl(Settings(), cast("Credentials", SimpleNamespace()))
        self.number = 0
        self.found = Authenticated(ADA)

    def access(self, change: dict[str, Any] | None = None) -> Access:
        """Return the principal's access under these rules."""
        self.number += 1
        self.control.replace(rules(change), self.number)
        return self.control._access(self.found)

    def used(self, change: dict[str, Any] | None = None) -> Access:
        """Return the principal's access under these rules, after it was asked for all that it may do."""
        access = self.access(change)
        for name in ("orders", "users", "others"):
            access.grant(name)
            access.guard(name)
        return access


UNCHANGED_ORDERS = [
    {"collections/users/staff": {"read": True}},
    {"collections/others/user": {"read": True}},
    {"roles/another": {"sub": "eve"}},
    {"roles/user": {"sub": {"$exists": True}}},
]


@pytest.mark.parametrize("change", UNCHANGED_ORDERS)
def test_grant_by_rules_that_stay_is_the_same_one(change: dict[str, Any]) -> None:
    system = System()
    before = system.used()
    after = system.access(change)
    assert after is not before
    assert after.has_grant_of(before, "orders")
    assert after.grant("orders") is before.grant("orders")
    assert after.guard("orders") is before.guard("orders")
    last = system.access()
    assert last.has_grant_of(before, "orders"), "also by rules that were replaced twice"


@pytest.mark.parametrize(
    "change",
    [
        {"collections/orders/user/read": {"owner": "$claims.sub"}},
        {"collections/orders/user/read": {"owner": "$claims.sub", "level": True}},
        {"collections/orders/user/read": {"owner": "$claims.sub", "level": 1.5}},
        {"collections/orders/user/hide": ["margin", "cost"]},
        {"collections/orders/user/update": False},
        {"collections/orders/staff": {"read": True}},
        {"collections/*/staff": {"delete": False}},
        {"roles/staff": {"staff": False}},
        {"roles/staff": False},
        {"roles/another": True},
    ],
)
def test_grant_by_other_rules_or_roles_is_made_again(change: dict[str, Any]) -> None:
    system = System()
    before = system.used()
    after = system.access(change)
    assert not after.has_grant_of(before, "orders")
    fresh = Access(system.found, rules(change), 1)
    grant, expected = after.grant("orders"), fresh.grant("orders")
    assert grant is not before.grant("orders")
    assert grant is not None
    assert expected is not None
    assert grant.digest == expected.digest
    assert after.guard("orders") is not before.guard("orders")
    assert not after.has_grant_of(before, "orders")


def test_collection_without_rules_of_its_own_is_granted_again() -> None:
    system = System()
    before = system.used({"collections/*/staff": {"read": True}})
    after = system.access({"collections/*/staff": {"read": False}})
    assert not after.has_grant_of(before, "others")
    assert (before.grant("others") is None, after.grant("others")) == (False, None)


def test_access_by_another_credential_has_no_grant_of_the_first() -> None:
    system = System()
    before = system.used()
    other = Access(Authenticated(Principal("ada", {"sub": "eve", "staff": True})), before._rules, 2, before)
    assert not other.has_grant_of(before, "orders")
    assert other.grant("orders") is not before.grant("orders")
    assert not other.has_grant_of(before, "orders")


def test_grant_is_made_again_after_a_time_without_rules() -> None:
    system = System()
    before = system.used()
    system.control.replace(None, 9)
    after = system.access()
    assert not after.has_grant_of(before, "orders")
    assert after.grant("orders") is not before.grant("orders")
