from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from eventsync.access.access import UNRESTRICTED, Access
from eventsync.access.authenticator import Authenticated
from eventsync.domain.access.principal import Principal
from eventsync.domain.access.rules import AccessRules, read_access
from eventsync.domain.positions import LogId, Seq
from eventsync.domain.predicates.declarations import read_rules
from eventsync.domain.shapes import Shape
from eventsync.domain.views import View
from eventsync.errors import Forbidden, NotTracked, Unavailable, UnknownShape
from eventsync.stores.log.definitions import Definitions
from eventsync.stores.log.registry import Declaration, DeclaredShape, Registry
from eventsync.stores.log.tracking import TrackedCollection, Tracking
from eventsync.sync.catch_up.binder import Binder

LOG = LogId("aaaa")
SHAPES = read_rules(
    {
        "shapes": {
            "in_state": {
                "collection": "orders",
                "where": {"state": "$state"},
                "parameters": {"state": {"type": "text"}},
            },
            "of_margin": {
                "collection": "orders",
                "where": {"margin": "$margin"},
                "parameters": {"margin": {"type": "int"}},
            },
            "mine": {
                "collection": "orders",
                "where": {"owner": "$owner", "team": {"$in": "$teams"}},
                "parameters": {
                    "owner": {"type": "text", "from": "claims.sub"},
                    "teams": {"type": "text", "from": "claims.teams"},
                },
            },
        }
    }
)
assert not SHAPES.problems
USER = {"read": {"owner": "$claims.sub"}, "hide": ["margin"]}


def rules(**tables: Any) -> AccessRules:
    """Return rules in which users read their own orders, and everybody else what `tables` says."""
    collections = {"orders": {"user": USER, "auditor": {"read": True}, "clerk": {"read": True, "hide": ["margin"]}}}
    tree = {
        "auth": {"issuers": [{"iss": "a", "secret_file": "/s", "algorithms": ["HS256"]}]},
        "roles": {"user": {"user": True}, "auditor": {"auditor": True}, "clerk": {"clerk": True}, "operator": False},
        "collections": collections | tables,
    }
    found, problems = read_access(tree)
    assert found is not None, problems
    return found


RULES = rules()


def access(sub: str = "ada", by: AccessRules = RULES, **claims: Any) -> Access:
    return Access(Authenticated(Principal(sub, {"sub": sub, **claims})), by, 1)


def operator(by: AccessRules = RULES) -> Access:
    return Access(Authenticated(Principal("root", {"sub": "root"}, frozenset({"operator"}))), by, 1)


def declared(by: AccessRules = RULES) -> list[DeclaredShape]:
    """Return all definitions, active behind the events 5, 6, 7 …"""
    found = [Declaration.of(each) for each in (*SHAPES.definitions.values(), *by.definitions.values())]
    return [
        DeclaredShape(item.name, item.collection, item.spec, item.digest, 1, LOG, Seq(5 + n), None, 50 + n)
        for n, item in enumerate(found)
    ]


def binder(*shapes: DeclaredShape, base: int = 0) -> Binder:
    tracking = Tracking()
    tracking.replace(LOG, [TrackedCollection("orders", LOG, Seq(base))])
    definitions = Definitions(tracking)
    definitions.replace(LOG, Registry(99, 1, shapes or tuple(declared())))
    return Binder(tracking, definitions)


def view_of(shape: Shape) -> View:
    assert isinstance(shape.route, View)
    return shape.route


MINE = Shape.parse("mine?")


@pytest.mark.parametrize("text", ["orders", "orders/42"])
def test_those_who_may_read_everything_follow_the_shape_itself(text: str) -> None:
    shape = Shape.parse(text)
    for who in (UNRESTRICTED, access(auditor=True)):
        assert binder().bind(shape, who).route is None
    assert binder().bind(Shape.parse("in_state?state=open"), access(auditor=True)).topic == (
        binder().bind(Shape.parse("in_state?state=open"), UNRESTRICTED).topic
    )


def test_others_follow_a_view_which_equal_grants_share() -> None:
    one, two = (binder().bind(Shape("orders"), access(user=True, jti=jti)) for jti in "ab")
    other = binder().bind(Shape("orders"), access("bob", user=True))
    assert one.topic == two.topic
    assert one.is_followed_as(two)
    assert len({one.topic, other.topic, "orders"}) == 3
    assert one.keys == view_of(one).keys
    assert one.keys
    assert view_of(one).admits({"owner": "ada"})
    assert not view_of(one).admits({"owner": "bob"})


def test_view_begins_behind_the_last_activation() -> None:
    named = {shape.name: shape for shape in declared()}
    rule = next(shape for name, shape in named.items() if name.startswith("rule:"))
    whole = binder().bind(Shape("orders"), access(user=True))
    assert (view_of(whole).since, view_of(whole).activations) == (rule.base, ((rule.name, rule.revision),))
    both = binder().bind(Shape.parse("in_state?state=open"), access(user=True))
    assert view_of(both).since == rule.base
    assert {name for name, _ in view_of(both).activations} == {"in_state", rule.name}
    assert view_of(binder(base=40).bind(Shape("orders"), access(user=True))).since == 40


def test_view_of_what_is_only_redacted_has_all_documents() -> None:
    view = view_of(binder().bind(Shape("orders"), access(clerk=True)))
    assert (view.clauses, view.activations, view.since) == ((), (), 0)
    assert view.redaction is not None
    assert view.redaction.strip({"_id": 1, "margin": 5}) == {"_id": 1}


@pytest.mark.parametrize("text", ["orders", "nothing", "nothing/42", "in_state?state=open", "no_shape?a=1"])
def test_unreadable_shape_is_refused_like_one_that_does_not_exist(text: str) -> None:
    shape = Shape.parse(text)
    for who in (access(), access(user=True, by=rules(orders={"user": {"read": False}}))):
        with pytest.raises(Forbidden) as refused:
            binder().bind(shape, who)
        assert refused.value.message == f"{shape} is not there, or you may not read it"


def test_operator_is_told_what_does_not_exist() -> None:
    everything = rules(**{"*": {"operator": {"read": True}}})
    with pytest.raises(UnknownShape):
        binder().bind(Shape.parse("no_shape?a=1"), operator(everything))
    with pytest.raises(NotTracked):
        binder().bind(Shape("nothing"), operator(everything))
    with pytest.raises(Forbidden):
        binder().bind(Shape("orders"), operator())


def test_name_of_a_declared_shape_alone_is_answered_with_how_to_write_it() -> None:
    for text in ("in_state", "in_state/42"):
        with pytest.raises(NotTracked, match=r"'in_state' is a declared shape.*`in_state\?`"):
            binder().bind(Shape.parse(text), UNRESTRICTED)
    with pytest.raises(NotTracked, match="`eventsync track nothing`"):
        binder().bind(Shape("nothing"), UNRESTRICTED)


def test_others_learn_neither_that_a_collection_is_not_tracked_nor_why() -> None:
    tracking = Tracking()
    tracking.replace(LOG, [TrackedCollection("orders", None, Seq(0), "it is a view: canary")])
    definitions = Definitions(tracking)
    definitions.replace(LOG, Registry(99, 1, tuple(declared())))
    untracked = Binder(tracking, definitions)
    for text in ("orders", "orders/42", "in_state?state=open"):
        with pytest.raises(NotTracked) as refused:
            untracked.bind(Shape.parse(text), access(auditor=True))
        assert refused.value.message == "there is no collection 'orders' that you may read"
    everything = rules(**{"*": {"operator": {"read": True}}})
    with pytest.raises(NotTracked, match="canary"):
        untracked.bind(Shape("orders"), operator(everything))


def test_rule_whose_definition_is_not_active_serves_nothing() -> None:
    shapes = declared()
    rule = next(shape for shape in shapes if shape.name.startswith("rule:"))
    rest = [shape for shape in shapes if shape is not rule]
    for wrong in (
        rest,
        [*rest, rule.inactive()],
        [*rest, replace(rule, log=LogId("bbbb"))],
        [*rest, replace(rule, refused="too odd")],
        [*rest, replace(rule, digest="00")],
    ):
        with pytest.raises(Unavailable, match="about to become active"):
            binder(*wrong).bind(Shape("orders"), access(user=True))
        assert binder(*wrong).bind(Shape("orders"), access(auditor=True)).route is None


def test_parameter_at_a_hidden_path_is_refused() -> None:
    shape = Shape.parse("of_margin?margin=int:5")
    assert binder().bind(shape, access(auditor=True)).keys
    for who in (access(user=True), access(clerk=True)):
        with pytest.raises(Forbidden, match="hidden"):
            binder().bind(shape, who)


def test_parameter_from_a_claim_needs_no_value_and_takes_no_other() -> None:
    who, full = access(auditor=True, teams=["a", "b"]), Shape.parse("mine?owner=ada&teams=a&teams=b")
    filled, given = binder().bind(MINE, who), binder().bind(full, who)
    assert filled.keys == given.keys
    assert str(filled) == "mine?"
    assert filled.topic != given.topic, "their messages name another shape"
    assert binder().bind(MINE, access(auditor=True, teams="a")).topic != filled.topic
    for wrong in ("mine?owner=bob", "mine?teams=a", "mine?owner=int:1"):
        with pytest.raises(Forbidden, match="is a claim"):
            binder().bind(Shape.parse(wrong), who)


@pytest.mark.parametrize("claims", [{}, {"teams": []}, {"teams": None}, {"teams": [{}]}, {"teams": ["x" * 4096]}])
def test_parameter_from_a_claim_that_is_no_value_is_refused(claims: dict[str, Any]) -> None:
    with pytest.raises(Forbidden, match="claim"):
        binder().bind(MINE, access(auditor=True, **claims))


def test_parameter_from_a_claim_is_one_as_all_others_without_rules() -> None:
    with pytest.raises(Exception, match="needs a value for owner, teams"):
        binder().bind(MINE, UNRESTRICTED)
    assert binder().bind(Shape.parse("mine?owner=bob&teams=z"), UNRESTRICTED).keys


def test_shape_is_bound_again_by_other_rules_and_claims() -> None:
    for text in ("orders", "orders/42", "in_state?state=open", "mine?owner=ada&teams=a"):
        bound = binder().bind(Shape.parse(text), access(user=True, teams="a"))
        assert binder().bind(bound, access(user=True, teams="a")).is_followed_as(bound)
        whole = binder().bind(bound, access(auditor=True, teams="a"))
        assert whole.topic == binder().bind(Shape.parse(text), access(auditor=True, teams="a")).topic
        assert not whole.is_followed_as(bound)
        with pytest.raises(Forbidden):
            binder().bind(bound, access())
    whole = binder().bind(Shape.parse("mine?owner=ada&teams=a"), access(auditor=True, teams="a"))
    with pytest.raises(Forbidden):
        binder().bind(whole, access(auditor=True, teams="b"))


def test_shape_by_the_same_grant_is_surely_the_same_until_its_activation_ends() -> None:
    before = access(user=True, teams="a")
    for text in ("orders", "orders/42", "in_state?state=open", "mine?"):
        bound = binder().bind(Shape.parse(text), before)
        now = Access(before.authenticated, RULES, 2, before)
        assert binder().is_same(bound, before, now)
        assert binder().bind(bound, now).is_followed_as(bound)
        assert not binder().is_same(bound, before, access(user=True, teams="a")), "another credential"
        for name in {name for name, _ in view_of(bound).activations}:
            rest = [shape for shape in declared() if shape.name != name]
            (own,) = (shape for shape in declared() if shape.name == name)
            for other in (rest, [*rest, own.inactive()], [*rest, replace(own, revision=99)]):
                assert not binder(*other).is_same(bound, before, now)
        assert not binder(base=40).is_same(bound, before, now), "tracked again"
    whole = access(auditor=True)
    assert not binder().is_same(
        binder().bind(Shape("orders"), whole), whole, Access(whole.authenticated, RULES, 2, whole)
    )
