"""The rules file: where it is found, how it is refused, and the indexes that its shapes need."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from eventsync.domain.access.auth import AuthSettings, Issuer
from eventsync.domain.predicates.definitions import Definition, define
from eventsync.errors import ConfigurationError
from eventsync.mongodb.query_plans import QueryPlan, UsedIndex
from eventsync.rules import costs, file, trial
from eventsync.rules.review import unusable_secrets, warnings
from eventsync.settings import Settings
from eventsync.stores.log.registry import Applied
from support.identity import PUBLIC

VALID = """
[shapes.my_orders]
collection = "orders"
where = { owner = "$owner" }
parameters = { owner = { type = "text" } }
"""


def definition(where: dict[str, Any], **kinds: Any) -> Definition:
    return define(
        "mine", "orders", where, {name: [kind] if isinstance(kind, str) else kind for name, kind in kinds.items()}
    )


class Plans:
    """Answers each query by the same plan, and keeps its filter."""

    def __init__(self, plan: QueryPlan) -> None:
        self.filters: list[Any] = []
        self._plan = plan

    async def plan(self, collection: str, filter: Any) -> QueryPlan:  # noqa: A002 - as it is named there
        assert collection == "orders"
        self.filters.append(filter)
        return self._plan


def index(name: str, *bounded: str) -> QueryPlan:
    return QueryPlan(False, (UsedIndex(name, frozenset(bounded)),))


def test_the_file_is_the_named_one_else_that_of_the_settings_else_the_default() -> None:
    named = Settings(rules_file=Path("of_settings.toml"))
    assert file.path_of(named, Path("given.toml")) == Path("given.toml")
    assert file.path_of(named) == Path("of_settings.toml")
    assert file.path_of(Settings()) == Path("rules.toml")


def test_a_valid_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "rules.toml").write_text(VALID)
    declarations = file.read_file(tmp_path / "rules.toml")
    file.require_valid(tmp_path, declarations)
    assert list(declarations.definitions) == ["my_orders"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[shapes", "is not TOML"),
        (b"a = '\xff'", "is not TOML"),
        (b"a = " + b"[" * 100_000, "nests too deeply|is not TOML"),
        (b"#" * (file.MAX_BYTES + 1), "has more than"),
    ],
)
def test_a_file_that_can_not_be_read_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "rules.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=said):
        file.read_file(path)


def test_a_file_of_cases_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "cases.json").write_bytes(b" " * (trial.MAX_BYTES + 1))
    with pytest.raises(ConfigurationError, match="has more than"):
        trial.read_cases(tmp_path / "cases.json")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        file.read_file(tmp_path / "rules.toml")


def test_the_first_problem_is_named_and_the_others_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "rules.toml"
    path.write_text(VALID + '[shapes.a]\ncollection = "a/b"\n[shapes.b]\n')
    with pytest.raises(ConfigurationError, match=r"can't be applied: shapes\.a.*and 1 more"):
        file.require_valid(path, file.read_file(path))


@pytest.mark.parametrize(
    ("made", "fields"),
    [
        (definition({"owner": "$o"}, o="text"), (("owner",),)),
        (definition({"owner": "$o", "a.b": "$b", "x": 1}, o="text", b="int"), (("a.b", "owner"),)),
        (definition({"$or": [{"owner": "$o"}, {"reader": "$o"}]}, o="text"), (("owner",), ("reader",))),
        (definition({"status": "open", "x": 1}), (("status",),)),
        (definition({"$or": [{"a": 1}, {"b": 1}]}), ()),
        (definition({}), ()),
    ],
)
def test_wanted_indexes_have_the_fields_of_the_parameters(made: Definition, fields: Any) -> None:
    assert costs.wanted_indexes(made) == fields


def test_the_command_for_an_index_quotes_what_it_must() -> None:
    assert costs.create_index("orders", ("a.b", "c")) == 'db.orders.createIndex({"a.b": 1, "c": 1})'
    assert costs.create_index("my-orders", ('a"b',)) == 'db.getCollection("my-orders").createIndex({"a\\"b": 1})'


async def test_a_scan_is_named_with_the_index_that_would_help() -> None:
    cost = await costs.cost_of(Plans(QueryPlan(True, ())), definition({"owner": "$o"}, o="text"))
    assert (cost.is_scan, cost.reason, cost.wanted) == (True, "scans orders", (("owner",),))


async def test_an_index_without_the_parameters_is_as_a_scan() -> None:
    made = definition({"owner": "$o", "status": "open"}, o="text")
    cost = await costs.cost_of(Plans(index("status_1", "status")), made)
    assert (cost.is_scan, cost.reason) == (True, "reads the routes of all values by status_1")
    cost = await costs.cost_of(Plans(index("status_1_owner_1", "status", "owner")), made)
    assert (cost.is_scan, cost.reason, cost.wanted) == (False, "uses status_1_owner_1", ())


async def test_a_shape_without_parameters_may_use_any_index() -> None:
    assert not (await costs.cost_of(Plans(index("status_1", "status")), definition({"status": "open"}))).is_scan


async def test_each_type_of_a_parameter_is_explained() -> None:
    plans = Plans(index("a_1", "a"))
    made = definition({"a": "$a", "b": {"$in": "$b"}}, a=["text", "null", "int"], b="bool")
    await costs.cost_of(plans, made)
    assert [each["a"]["$eq"] for each in plans.filters] == [0, None, "a"]
    assert [each["b"]["$in"] for each in plans.filters] == [[True]] * 3
    plans.filters.clear()
    route = made.bind({"a": 7, "b": [False]})
    await costs.cost_of(plans, made, route)
    assert plans.filters == [route.filter]


def test_an_apply_is_told_in_one_line() -> None:
    assert (
        file.applied_text(Applied(3, ("a", "b"), ("c",), (), ("d",))) == "rules 3: new: a, b; changed: c; 1 unchanged"
    )
    assert file.applied_text(Applied(4, (), (), ("a",), ())) == "rules 4: removed: a"
    assert file.applied_text(Applied(0, (), (), (), ())) == "rules 0: 0 unchanged"


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("", "[auth] without any rule in [collections]: nobody may read or write anything"),
        ("[roles]\nstaff = true", "roles.staff: no rule is for this role"),
        (
            "[collections.c.clerk]\nread = true",
            "clerk has rules and is none of [roles]: only a service key can have it",
        ),
        (
            "[collections.c.a]\nread = { x = 1 }\nhide = ['y']\n[collections.c.b]\nread = { z = 1 }\nhide = ['w']",
            "collections.c: a and b hide differently; a principal with both roles sees what neither of them hides",
        ),
        ("[collections.c.a]\nupdate = true", "collections.c: a may change documents, and nobody may read any of them"),
    ],
)
def test_a_review_names_what_is_probably_not_meant(text: str, warning: str) -> None:
    found = file.read_tree(tomllib.loads(f"[auth]\n{text}"))
    assert found.problems == ()
    assert found.access is not None
    assert warning in list(warnings(found.access))


def test_a_review_says_why_a_secret_can_not_be_used(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    auth = AuthSettings(
        (Issuer("shop", ("HS256",), secret_file=str(path)), Issuer("id", ("ES256",), jwks="https://id"))
    )

    def said() -> str:
        return "".join(unusable_secrets(auth))

    assert said() == (
        "auth: tokens of shop can't be verified by this user on this machine: "
        f"the secret file {path} can't be read: No such file or directory"
    )
    for content, mode, reason in (
        (b"", 0o600, "this has 0"),
        (b"x" * 31, 0o600, "this has 31"),
        (PUBLIC, 0o600, "public key or certificate"),
        (b"x" * 32, 0o604, "0604"),
    ):
        path.write_bytes(content)
        path.chmod(mode)
        assert reason in said()
    path.chmod(0o600)
    assert said() == ""


def test_a_review_finds_nothing_in_rules_that_are_meant() -> None:
    roles = "[auth]\n[roles]\noperator = true\nuser = true\n"
    rules = '[collections.c.user]\nread = true\n[collections."*".operator]\nread = true'
    found = file.read_tree(tomllib.loads(roles + rules))
    assert found.access is not None
    assert list(warnings(found.access)) == []
