"""Rules files: their shapes, and all that is wrong in them, with its place."""

from __future__ import annotations

import tomllib
from datetime import UTC, datetime

import pytest
from bson import Decimal128, ObjectId

from eventsync.domain.predicates.declarations import MAX_DEFINITIONS, read_rules

GOOD = """
[shapes.my_orders]
collection = "orders"
where = { owner = "$owner", status = { "$in" = ["open", "paid"] } }
parameters = { owner = { type = "text" } }

[shapes.all]
collection = "orders"

[shapes.recent]
collection = "orders"
where.at."$gte" = 2026-01-01T00:00:00Z
where.price."$numberDecimal" = "0.1"
where.by."$null" = true
where.in = "$list"
parameters = { list = { type = ["oid", "null"] } }
"""


def test_shapes_are_read_by_name() -> None:
    declarations = read_rules(tomllib.loads(GOOD))
    assert declarations.problems == ()
    assert {name: each.collection for name, each in declarations.definitions.items()} == dict.fromkeys(
        ("my_orders", "all", "recent"), "orders"
    )
    document = {"at": datetime(2026, 6, 1, tzinfo=UTC), "price": Decimal128("0.10"), "in": ObjectId(b"x" * 12)}
    recent = declarations.definitions["recent"]
    assert recent.keys(document) == recent.bind({"list": ObjectId(b"x" * 12)}).keys
    assert recent.keys(document | {"by": "ada"}) == frozenset()


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        (
            "[shape.a]",
            ["shape: there is no such table; there are [auth], [roles], [collections.NAME.ROLE], [shapes.NAME]"],
        ),
        ("shapes = 5", ["shapes: is a table: [shapes.NAME]"]),
        ("shapes.a = 5", ["shapes.a: is a table with collection, where and parameters"]),
        ('[shapes."a b"]', ["shapes.a b: a name has up to 64 of A-Z a-z 0-9 _ . - and begins with a letter or _"]),
        ("[shapes.a]", ["shapes.a.collection: a collection name has 1 to 120 bytes"]),
        (
            '[shapes.a]\ncollection = "c"\nwhen = {}',
            ["shapes.a.when: is unknown; there are collection, where, parameters"],
        ),
        (
            '[shapes.a]\ncollection = "c"\nparameters = 5',
            ['shapes.a.parameters: is a table: { owner = { type = "text" } }'],
        ),
        (
            '[shapes.a]\ncollection = "c"\nwhere = { a = "$p" }\nparameters = { p = { type = "string" } }',
            [
                "shapes.a.parameters.p: is { type = … }, of text, int, number, bool, date, oid, uuid, null, any, "
                "or a list of these"
            ],
        ),
        (
            '[shapes.a]\ncollection = "c"\nparameters = { "p q" = { type = "text" } }',
            [
                "shapes.a.parameters.p q: a name has letters, digits and _",
                "shapes.a.where: the parameter p q stands nowhere in the filter; leave it out",
            ],
        ),
        (
            '[shapes.a]\ncollection = "c"\nwhere = { "$or" = [{ x = { "$regex" = "y" } }, { "$expr" = {} }] }',
            [
                "shapes.a.where.$or[0].x.$regex: a regular expression is not evaluated; a prefix is $gte and $lt",
                "shapes.a.where.$or[1].$expr: an expression is not evaluated; store what it computes in a field",
            ],
        ),
        (
            '[shapes.a]\ncollection = "c"\nwhere = { d = 2026-01-01 }',
            [
                "shapes.a.where.d: a date needs a time and an offset from UTC, such as 2026-01-01T00:00:00Z",
            ],
        ),
        ('[shapes.a]\ncollection = "c"\nwhere.d."$null" = 1', ['shapes.a.where.d: null is { "$null" = true }']),
    ],
)  # fmt: skip
def test_each_problem_has_its_place_and_the_way_round(text: str, problems: list[str]) -> None:
    declarations = read_rules(tomllib.loads(text))
    assert [str(problem) for problem in declarations.problems] == problems
    assert declarations.definitions == {}


def test_a_collection_has_a_limited_number_of_shapes() -> None:
    text = "".join(f'[shapes.s{n}]\ncollection = "c"\n' for n in range(MAX_DEFINITIONS + 1))
    (problem,) = read_rules(tomllib.loads(text)).problems
    assert str(problem) == f"shapes: c has {MAX_DEFINITIONS + 1} shapes; at most {MAX_DEFINITIONS}"


def test_a_shape_with_problems_leaves_the_others() -> None:
    declarations = read_rules(tomllib.loads(GOOD + '[shapes.bad]\ncollection = "a$"'))
    assert sorted(declarations.definitions) == ["all", "my_orders", "recent"]
    assert [problem.place for problem in declarations.problems] == ["shapes.bad.collection"]
