"""Rules: what a principal may read and write, by roles and claims."""

from __future__ import annotations

import pickle
import tomllib
from typing import Any

import pytest

from eventsync.domain.access.guards import Edit
from eventsync.domain.access.principal import Principal
from eventsync.domain.access.rules import AccessRules, read_access, read_spec
from eventsync.errors import Forbidden, NotFound

SHOP = """
[auth]

[roles]
operator = { roles = "ops" }
user = true
clerk = { clerk = true }

[collections.orders.user]
read = { "$or" = [{ owner = "$claims.sub" }, { watchers = "$claims.sub" }, { public = true }] }
create = { owner = "$claims.sub" }
update = { owner = "$claims.sub", status = { "$ne" = "closed" } }
delete = { owner = "$claims.sub", status = "new" }
hide = ["margin", "lines.*.cost"]
fixed = ["owner"]

[collections.orders.clerk]
read = { shop = { "$in" = "$claims.shops" } }
hide = ["notes"]

[collections."*".operator]
read = true
update = true
"""

ADA = Principal("ada", {"sub": "ada"})
OPS = Principal("root", {"sub": "root", "roles": ["ops"]})


def rules_of(text: str) -> AccessRules:
    rules, problems = read_access(tomllib.loads(text))
    assert problems == []
    assert rules is not None
    return rules


def order(**fields: Any) -> dict[str, Any]:
    return {"_id": 1, "owner": "ada", "status": "new", "margin": 5, "lines": [{"sku": "x", "cost": 1}], **fields}


RULES = rules_of(SHOP)


def setting(**fields: Any) -> Edit:
    return lambda seen: {**seen, **fields}


# --- reading ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "allowed"),
    [
        ({"owner": "ada"}, True),
        ({"owner": ["eve", "ada"]}, True),
        ({"owner": "eve"}, False),
        ({"owner": "eve", "watchers": ["bob", "ada"]}, True),
        ({"owner": "eve", "public": True}, True),
        ({}, False),
        ({"owner": None}, False),
        ({"owner": {"$gt": ""}}, False),
    ],
)
def test_a_read_rule_allows_what_its_filter_matches(document: dict[str, Any], allowed: bool) -> None:
    grant = RULES.grant(ADA, "orders")
    assert grant is not None
    assert grant.allows(document) is allowed


def test_branches_with_the_same_claims_are_one_definition() -> None:
    grant = RULES.grant(ADA, "orders")
    assert grant is not None
    assert len(grant.parts) == 2
    assert grant.filter == {
        "$or": [{"$or": [{"owner": {"$eq": "ada"}}, {"watchers": {"$eq": "ada"}}]}, {"public": True}]
    }
    assert {part.name for part in grant.parts} <= RULES.definitions.keys()
    assert all(name.startswith("rule:") for name in RULES.definitions)


def test_a_collection_that_no_role_may_read_has_no_grant() -> None:
    assert RULES.grant(ADA, "invoices") is None
    operators = RULES.grant(OPS, "invoices")
    assert operators is not None
    assert operators.everything


def test_equal_claims_have_equal_grants_and_others_have_others() -> None:
    grants = [RULES.grant(Principal(sub, {"sub": sub}), "orders") for sub in ("ada", "ada", "bob")]
    first, same, other = (grant.digest for grant in grants if grant)
    assert first == same != other


def test_roles_join_what_they_show_and_what_they_hide() -> None:
    clerk = Principal("ada", {"sub": "ada", "clerk": True, "shops": ["x", "y"]})
    grant = RULES.grant(clerk, "orders")
    assert grant is not None
    assert grant.allows({"shop": "y"})
    assert grant.show({"_id": 1, "margin": 1, "notes": 2, "a": 3}) == {"_id": 1, "a": 3}


def test_a_role_that_sees_everything_makes_others_superfluous() -> None:
    grant = RULES.grant(Principal("root", {"sub": "root", "roles": ["ops"]}), "orders")
    assert grant is not None
    assert grant.everything
    assert grant.redaction is None, "what the role `user` hides"


def test_a_role_that_reads_nothing_hides_nothing() -> None:
    clerk = Principal("ada", {"sub": "ada", "clerk": True})
    grant = RULES.grant(clerk, "orders")
    assert grant is not None
    assert grant.show({"_id": 1, "notes": 2}) == {"_id": 1, "notes": 2}


@pytest.mark.parametrize(
    "claims",
    [
        {},
        {"x": None},
        {"x": {"$gt": ""}},
        {"x": [["a"]]},
        {"x": [None]},
        {"x": ["a", {"$gt": ""}]},
        {"x": ["a"] * 1001},
    ],
)
@pytest.mark.parametrize("operator", ["$in", "$nin", "$ne", "$eq", "$gt", "$lte", "$all"])
def test_a_claim_that_is_unusable_makes_a_rule_false(claims: dict[str, Any], operator: str) -> None:
    text = """
        [auth]
        [roles]
        user = true
        [collections.c.user]
        read = true
        update = { "$or" = [{ a = 1 }, { b = { "OPERATOR" = "$claims.x" } }] }
        delete = { "$nor" = [{ b = { "OPERATOR" = "$claims.x" } }] }
    """.replace("OPERATOR", operator)
    guard = rules_of(text).guard(Principal("ada", claims), "c")
    with pytest.raises(Forbidden):
        guard.edit({"a": 1}, lambda before: before)
    with pytest.raises(Forbidden):
        guard.delete({"a": 1})


def test_a_missing_claim_closes_the_other_branches_of_a_read_rule() -> None:
    text = """
        [auth]
        [roles]
        user = true
        [collections.c.user]
        read = { "$or" = [{ public = true }, { owner = "$claims.email" }, { team = { "$in" = "$claims.a.teams" } }] }
    """
    rules = rules_of(text)
    assert rules.grant(Principal("ada", {"email": "a@x"}), "c") is None
    assert rules.grant(Principal("ada", {"email": ["a@x"], "a": {"teams": ["x"]}}), "c") is None
    grant = rules.grant(Principal("ada", {"email": "a@x", "a": {"teams": []}}), "c")
    assert grant is not None
    assert len(grant.parts) == 2, "an empty list finds nothing, and closes nothing else"
    grant = rules.grant(Principal("ada", {"email": "a@x", "a.teams": "blue"}), "c")
    assert grant is not None
    assert grant.allows({"team": "blue"})
    assert not grant.allows({"team": "red"})


def test_predicates_of_roles_find_claims_whose_names_are_urls() -> None:
    text = """
        [auth]
        [roles]
        operator = { "https://shop.example/roles" = "ops" }
        [collections."*".operator]
        read = true
    """
    rules = rules_of(text)
    assert rules.roles_of(Principal("a", {"https://shop.example/roles": ["ops", "x"]})) == {"operator"}
    assert rules.roles_of(Principal("a", {"https://shop.example/roles": ["x"]})) == frozenset()


# --- writing ------------------------------------------------------------------------------------------------------


def test_create_is_checked_on_the_new_document() -> None:
    guard = RULES.guard(ADA, "orders")
    guard.create({"_id": 1, "owner": "ada", "lines": [{"sku": "x"}]})
    with pytest.raises(Forbidden) as refused:
        guard.create({"_id": 1, "owner": "eve"})
    assert refused.value.reason == "rule"
    for hidden in ({"margin": 1}, {"lines": [{"cost": 1}]}):
        with pytest.raises(Forbidden) as refused:
            guard.create({"_id": 1, "owner": "ada", **hidden})
        assert refused.value.reason == "hidden"


def test_an_edit_sees_and_changes_what_is_shown_and_keeps_the_rest() -> None:
    guard = RULES.guard(ADA, "orders")
    before = order()

    def edit(seen: dict[str, Any]) -> dict[str, Any]:
        assert seen == {"_id": 1, "owner": "ada", "status": "new", "lines": [{"sku": "x"}]}
        return {**seen, "status": "paid", "lines": [{"sku": "y"}, {"sku": "z"}]}

    after = guard.edit(before, edit)
    assert after == order(status="paid", lines=[{"sku": "y", "cost": 1}, {"sku": "z"}])
    assert before == order(), "the stored document was changed"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"margin": 5}, "hidden"),
        ({"lines": []}, "hidden"),
        ({"lines": "none"}, "hidden"),
        ({"lines": [{"sku": "x", "cost": 1}]}, "hidden"),
        ({"lines": [{"sku": "x"}, {"cost": 1}]}, "hidden"),
        ({"owner": "eve"}, "fixed"),
        ({"status": "closed"}, "rule"),
    ],
)
def test_an_edit_is_refused_for_a_reason(change: dict[str, Any], reason: str) -> None:
    text = SHOP.replace("update = {", 'after = { status = { "$ne" = "closed" } }\nupdate = {')
    guard = rules_of(text).guard(ADA, "orders")
    with pytest.raises(Forbidden) as refused:
        guard.edit(order(), lambda seen: {**seen, **change})
    assert refused.value.reason == reason


def test_update_is_checked_before_and_after() -> None:
    guard = RULES.guard(ADA, "orders")
    for status, then in (("closed", "new"), ("new", "closed")):
        with pytest.raises(Forbidden):
            guard.edit(order(status=status), setting(status=then))


def test_a_write_needs_one_role_that_allows_all_of_it() -> None:
    text = """
        [auth]
        [roles]
        owner = true
        editor = true
        [collections.c.owner]
        read = true
        update = { owner = "$claims.sub" }
        fixed = ["owner"]
        [collections.c.editor]
        read = true
        update = { state = "draft" }
        hide = ["price"]
    """
    guard = rules_of(text).guard(Principal("ada", {"sub": "ada"}), "c")
    mine, draft = {"_id": 1, "owner": "ada", "price": 1}, {"_id": 1, "owner": "eve", "price": 1, "state": "draft"}
    assert guard.edit(mine, lambda seen: {**seen, "price": 2})["price"] == 2
    assert guard.edit(draft, lambda seen: {**seen, "owner": "bob"})["owner"] == "bob"
    with pytest.raises(Forbidden):
        guard.edit(mine, lambda seen: {**seen, "owner": "bob"})
    with pytest.raises(Forbidden):
        guard.edit(draft, lambda seen: {**seen, "price": 2})


def test_an_unreadable_document_is_not_found() -> None:
    guard = RULES.guard(ADA, "orders")
    with pytest.raises(NotFound):
        guard.edit(order(owner="eve"), lambda seen: seen)
    with pytest.raises(NotFound):
        guard.delete(order(owner="eve"))
    assert guard.shown(order(owner="eve")) is None
    assert guard.shown(order()) == {"_id": 1, "owner": "ada", "status": "new", "lines": [{"sku": "x"}]}


def test_delete_is_checked_on_the_document_before() -> None:
    guard = RULES.guard(ADA, "orders")
    guard.delete(order())
    with pytest.raises(Forbidden):
        guard.delete(order(status="paid"))


def test_a_guard_goes_to_a_helper_process_and_decides_there_alike() -> None:
    guard = pickle.loads(pickle.dumps(RULES.guard(ADA, "orders")))  # noqa: S301 - our own
    assert guard.edit(order(), lambda seen: {**seen, "status": "paid"}) == order(status="paid")
    with pytest.raises(Forbidden):
        guard.edit(order(), lambda seen: {**seen, "margin": 1})


# --- texts --------------------------------------------------------------------------------------------------------


def test_rules_are_made_again_from_their_text() -> None:
    again = read_spec(RULES.spec)
    assert again.spec == RULES.spec
    assert again.definitions.keys() == RULES.definitions.keys()
    for principal in (ADA, OPS):
        first, second = RULES.grant(principal, "orders"), again.grant(principal, "orders")
        assert first is not None
        assert second is not None
        assert first.digest == second.digest


def test_a_guard_sends_no_claim_that_its_rules_do_not_name() -> None:
    deep: Any = []
    for _ in range(5_000):
        deep = [deep]
    guard = RULES.guard(Principal("ada", {"sub": "ada", "other": deep, "shops": deep}), "orders")
    again = pickle.loads(pickle.dumps(guard))  # noqa: S301 - our own
    assert again.edit(order(), setting(status="paid")) == order(status="paid")


@pytest.mark.parametrize("path", [".sub", "sub.", "a..b", ".", ".."])
@pytest.mark.parametrize(
    "rule",
    [
        '{ a = "CLAIM" }',
        '{ a = { "$in" = "CLAIM" } }',
        '{ a = { "$in" = ["CLAIM", 1] } }',
        '{ a = { "$ne" = "CLAIM" } }',
    ],
)
def test_a_claim_with_an_empty_name_is_refused(rule: str, path: str) -> None:
    """No token has one, so the rule would be false for everybody."""
    text = rule.replace("CLAIM", f"$claims.{path}")
    _, problems = read_access(tomllib.loads(f"[auth]\n[roles]\nu = true\n[collections.c.u]\nupdate = {text}"))
    assert [problem.place.startswith("collections.c.u.update.a") for problem in problems] == [True]
    assert problems[0].reason == f"the claim {path!r} has an empty name before, after or between its dots"
    if "$ne" not in rule:
        _, problems = read_access(tomllib.loads(f"[auth]\n[roles]\nu = true\n[collections.c.u]\nread = {text}"))
        assert "empty name" in problems[0].reason


@pytest.mark.parametrize(
    ("table", "place"), [("[roles]\nops = {}", "roles.ops"), ("read = {}", "collections.a.ops.read")]
)
def test_a_filter_without_a_condition_is_no_way_to_say_everybody_or_everything(table: str, place: str) -> None:
    text = table if table.startswith("[") else f"[roles]\nops = true\n[collections.a.ops]\n{table}"
    rules, problems = read_access(tomllib.loads(f"[auth]\n{text}"))
    assert rules is None
    assert [(problem.place, problem.reason) for problem in problems] == [
        (place, "is an empty filter; everything is true")
    ]
