"""Rules against MongoDB: rule, filter and route agree on random rules, claims and documents.

What MongoDB is asked has the claims replaced here, in the plainest way. `EVENTSYNC_TEST_RULES=2000` takes so many rules
with claims, each for 250 documents, in a long run.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymongo import MongoClient

from eventsync.domain.access.claims import bound
from eventsync.domain.access.grants import ReadGrant
from eventsync.domain.access.guards import bound_rule
from eventsync.domain.access.principal import Principal
from eventsync.domain.access.rules import AccessRules, read_access
from eventsync.domain.values.extended_json import CODEC
from integration.predicates import random_filters
from integration.predicates.test_against_mongodb import Stored

RULES = int(os.environ.get("EVENTSYNC_TEST_RULES", "60"))
IS_LONG = RULES > 60

DOCUMENTS = 250

SCALARS = (1, 5, 2, 5.0, "a", "b", True, False, 0, -1, 1.5, "", "ab", "$a", "$claims.q", 2**53 + 1, 2**63 - 1)
UNUSABLE: tuple[Any, ...] = (
    None,
    {"$gt": ""},
    {},
    {"a": 1},
    [["a"]],
    [None],
    ["a", {"$ne": 1}],
    2**63,
    "\ud800",
    float("nan"),
)

MISSING = object()


class Unusable(Exception):
    """A rule with such a claim is false."""


@pytest.fixture(scope="module")
def stored(mongodb_uri: str) -> Iterator[Stored]:
    choose = random.Random(19)
    with MongoClient[Any](mongodb_uri) as client:
        database = client.get_database("test_rules", codec_options=CODEC)
        yield Stored(database["documents"], [random_filters.document(choose, number) for number in range(DOCUMENTS)])
        client.drop_database(database)


def claims(choose: random.Random, *, usable: float = 0.85) -> dict[str, Any]:
    """Claims `p`, `q`, `a.b` and the list `l`: now and then one is missing, or nothing that a rule can use."""
    found: dict[str, Any] = {}
    for name in ("p", "q", "b"):
        kind = choose.random()
        if kind < usable:
            found[name] = choose.choice(SCALARS)
        elif kind < 0.95:
            found[name] = choose.choice(UNUSABLE)
    listed = [choose.choice(SCALARS) for _ in range(choose.randrange(4))]
    found["l"] = listed if choose.random() < usable else choose.choice((*UNUSABLE, 5, "a"))
    return {"p": found.get("p", MISSING), "q": found.get("q", MISSING), "l": found["l"], "a": {"b": found.get("b", 1)}}


def value_of(given: dict[str, Any], path: str) -> Any:
    return given["a"]["b"] if path == "a.b" else given[path]


def replaced(tree: Any, given: dict[str, Any], operator: str = "", *, negated: bool = False) -> Any:
    """The rule with its claims replaced. Raises `Unusable`."""
    if isinstance(tree, dict):
        return {
            name: replaced(item, given, name, negated=negated or name in {"$not", "$nor", "$nin"})
            for name, item in tree.items()
        }
    if isinstance(tree, list):
        return [replaced(item, given, negated=negated) for item in tree]
    if not isinstance(tree, str) or not tree.startswith("$claims."):
        return tree
    value = value_of(given, tree.removeprefix("$claims."))
    items = value if isinstance(value, list) and operator in {"$in", "$nin", "$all"} else [value]
    for item in items:
        if item is MISSING or any(item is bad for bad in UNUSABLE) or not isinstance(item, str | int | float):
            raise Unusable
    if operator not in {"$in", "$nin", "$all"}:
        return value
    if not items and negated:
        raise Unusable
    return items


def is_usable(rule: Any, given: dict[str, Any]) -> bool:
    try:
        replaced(rule, given)
    except Unusable:
        return False
    return True


def with_claims(choose: random.Random, tree: Any) -> Any:
    """A filter some of whose values are claims, at any place."""
    if isinstance(tree, dict):
        found = {name: with_claims(choose, item) for name, item in tree.items()}
        for name in found.keys() & {"$in", "$nin", "$all"}:
            if choose.random() < 0.3:
                found[name] = "$claims.l"
        for name in found.keys() & {"$exists", "$size", "$type", "$mod"}:
            found[name] = tree[name]
        return found
    if isinstance(tree, list):
        return [with_claims(choose, item) for item in tree]
    return f"$claims.{choose.choice(('p', 'q', 'a.b'))}" if choose.random() < 0.3 else tree


def principal_of(given: dict[str, Any]) -> Principal:
    return Principal("p", {name: item for name, item in given.items() if item is not MISSING})


def rules_of(**table: Any) -> AccessRules | None:
    rules, problems = read_access({"auth": {}, "roles": {"all": True}, "collections": {"c": {"all": table}}})
    if problems:
        # Only for its size: the branches of a rule repeat what is beside their `$or`.
        assert "at most" in problems[0].reason or "more than" in problems[0].reason, problems[0].message
    return rules


@settings(max_examples=RULES, deadline=None)
@given(st.randoms(use_true_random=IS_LONG))
def test_a_read_rule_its_filter_and_its_routes_agree_with_mongodb(stored: Stored, choose: random.Random) -> None:
    names = choose.sample(("p", "q", "l", "a.b"), choose.choice((1, 1, 1, 2)))
    parts = [
        random_filters.parametrised(choose, choose.sample(names, choose.randrange(len(names) + 1)))
        for _ in range(choose.choice((1, 1, 2)))
    ]
    rule = _claimed(parts[0] if len(parts) == 1 else {"$or": parts})
    rules = rules_of(read=rule)
    if rules is None:
        return
    for _ in range(4):
        given_claims = claims(choose)
        grant = rules.grant(principal_of(given_claims), "c")
        if not is_usable(rule, given_claims):
            assert grant is None, (rule, given_claims)
            continue
        found = stored.found(replaced(rule, given_claims))
        allowed = [document["_id"] for document in stored.documents if grant is not None and grant.allows(document)]
        assert sorted(allowed) == found, (rule, given_claims)
        assert (stored.found(grant.filter) if grant is not None and grant.filter is not None else []) == found
        matches = bound_rule(rule, principal_of(given_claims).claims)
        assert sorted(document["_id"] for document in stored.documents if matches(document)) == found


def _claimed(tree: Any) -> Any:
    """A filter with parameters as one with claims, in which an item of a list may be one, too."""
    if isinstance(tree, dict):
        return {name: _claimed(item) for name, item in tree.items()}
    if isinstance(tree, list):
        return [_claimed(item) for item in tree]
    return f"$claims.{tree[1:]}" if isinstance(tree, str) and tree.startswith("$") else tree


@settings(max_examples=RULES, deadline=None)
@given(st.randoms(use_true_random=IS_LONG))
def test_a_write_rule_with_claims_anywhere_agrees_with_mongodb(stored: Stored, choose: random.Random) -> None:
    rule = with_claims(choose, random_filters.any_filter(choose))
    rules = rules_of(read=True, delete=rule)
    if rules is None:
        return
    for _ in range(3):
        given_claims = claims(choose)
        matches = bound_rule(rule, principal_of(given_claims).claims)
        allowed = sorted(document["_id"] for document in stored.documents if matches(document))
        if not is_usable(rule, given_claims):
            assert allowed == [], (rule, given_claims)
            continue
        assert allowed == stored.found(replaced(rule, given_claims)), (rule, given_claims)
        assert stored.found(bound(rule, principal_of(given_claims).claims)) == allowed


def test_a_grant_of_everything_finds_everything(stored: Stored) -> None:
    grant = ReadGrant.of("c", None)
    assert grant.filter is None
    assert all(map(grant.allows, stored.documents))
