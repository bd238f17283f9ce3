"""The rules file: whatever TOML it has, reading it finds problems and never fails."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from eventsync.domain.access.principal import Principal
from eventsync.domain.access.rules import read_spec
from eventsync.errors import EventsyncError
from eventsync.rules.file import read_tree
from support.documents import documents

_EXAMPLES = 100

_NAMES = st.sampled_from(
    ["auth", "roles", "collections", "shapes", "orders", "*", "user", "operator", "read", "create", "update", "after",
     "delete", "hide", "fields", "fixed", "issuers", "a", "a.b", "", "_id", "$or", "$and", "$nor", "$not", "$in",
     "$nin", "$eq", "$ne", "$gt", "$all", "$elemMatch", "$literal", "$oid", "$null", "$exists", "$size", "x\0", "where",
     "collection", "parameters", "type", "\ud800"]
)  # fmt: skip
_LEAVES = st.sampled_from(
    [True, False, 0, 1, -1, 2**63, 2**80, 1.5, float("nan"), "", "a", "a.b", "*", "$claims.sub", "$claims.groups",
     "$claims.", "$claims", "$x", "lines.*.cost", "lines.0", "text", "orders", datetime(2026, 1, 1, tzinfo=UTC),
     datetime(2026, 1, 1, tzinfo=UTC).replace(tzinfo=None), date(2026, 1, 1), time(1, 2), "\ud800", "x" * 3000]
)  # fmt: skip
_TREES = st.recursive(
    _LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_NAMES, inner, max_size=4), max_leaves=24
)


def _filters() -> st.SearchStrategy[Any]:
    values = st.sampled_from(["$claims.sub", "$claims.groups", "$claims.a.b", "x", 1, True])
    listed = st.lists(values, max_size=3)
    operators = st.dictionaries(st.sampled_from(["$eq", "$ne", "$gt", "$lte"]), values, min_size=1, max_size=2)
    lists = st.dictionaries(st.sampled_from(["$in", "$nin", "$all"]), values | listed, min_size=1, max_size=2)
    leaf = st.dictionaries(st.sampled_from(["a", "b", "c.d"]), values | operators | lists, min_size=1, max_size=2)
    return st.recursive(
        leaf,
        lambda inner: st.dictionaries(
            st.sampled_from(["$or", "$and", "$nor"]), st.lists(inner, min_size=1, max_size=3), min_size=1, max_size=2
        ),
        max_leaves=6,
    )


_RULES = st.booleans() | _filters()
_PATHS = st.lists(st.sampled_from(["a", "b.c", "c.*", "*.d", "a.*.b"]), max_size=3)
_TABLES = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("read", "create", "update", "delete"), _RULES),
        "hide": _PATHS,
        "fixed": _PATHS,
        "fields": st.lists(st.sampled_from(["a", "b", "c"]), max_size=3),
    },
)
_FILES = st.fixed_dictionaries(
    {"auth": st.just({}), "roles": st.just({"user": True, "group": {"groups": "x"}})},
    optional={
        "collections": st.dictionaries(st.just("orders"), st.dictionaries(st.sampled_from(["user", "group"]), _TABLES))
    },
)


@settings(max_examples=_EXAMPLES)
@given(st.dictionaries(_NAMES, _TREES, max_size=4))
def test_any_tree_is_read_or_refused_with_its_problems(tree: dict[str, Any]) -> None:
    rules = read_tree(tree)
    for problem in rules.problems:
        assert problem.message
    assert rules.access is None or not any(problem.place.startswith("collections") for problem in rules.problems)
    assert (rules.access is not None) <= ("auth" in tree)


@settings(max_examples=_EXAMPLES)
@given(_FILES, documents(), documents())
def test_rules_that_were_read_decide_for_any_document_and_are_made_again_from_their_text(
    tree: dict[str, Any], before: dict[str, Any], after: dict[str, Any]
) -> None:
    access = read_tree(tree).access
    if access is None:
        return
    again = read_spec(access.spec)
    assert again.definitions.keys() == access.definitions.keys()
    for claims in ({}, {"sub": "x", "groups": ["x", "y"], "a": {"b": 1}}, {"sub": "x", "groups": [], "a": {"b": None}}):
        principal = Principal("x", claims)
        grant, same_grant = access.grant(principal, "orders"), again.grant(principal, "orders")
        assert (grant and grant.digest) == (same_grant and same_grant.digest)
        if grant is not None:
            grant.show(before)
            assert grant.everything or grant.filter
        for rules in (access, again):
            try:
                rules.guard(principal, "orders").edit(before, lambda _: after)
            except EventsyncError as error:
                assert error.code in {"forbidden", "not_found"}  # noqa: PT017 - it may succeed, too
