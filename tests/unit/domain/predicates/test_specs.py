"""Specs: what is stored of a definition makes the same definition again."""

from __future__ import annotations

import tomllib

import pytest

from eventsync.domain.predicates.declarations import read_rules, read_spec, spec_of
from eventsync.errors import InvalidPredicate, Malformed

RULES = """
[shapes.plain]
collection = "orders"

[shapes.by_owner]
collection = "orders"
where = { owner = "$owner", status = { "$in" = ["open", "paid"] } }
parameters = { owner = { type = ["text", "int"] } }

[shapes.by_list]
collection = "orders"
where = { "$or" = [{ a = { "$in" = "$who" } }, { owner = { "$in" = "$who" }, n = { "$ne" = { "$null" = true } } }] }
parameters = { who = { type = "any" } }

[shapes.values]
collection = "orders"
[shapes.values.where]
id = { "$oid" = "65a000000000000000000001" }
at = { "$gte" = 2026-01-01T00:00:00.123Z, "$lt" = { "$date" = "2027-01-01T00:00:00Z" } }
long = { "$numberLong" = "5" }
double = 5.0
odd = { "$numberDouble" = "NaN" }
decimal = { "$numberDecimal" = "0.1" }
uuid = { "$uuid" = "00112233-4455-6677-8899-aabbccddeeff" }
bytes = { "$binary" = { base64 = "AQI=", subType = "00" } }
object = { b = 1, a = [true, { "$null" = true }, "x"] }
text = { "$literal" = "$owner" }
owner = "$owner"
kinds = { "$type" = ["string", "number"], "$not" = { "$size" = 3 } }
items = { "$elemMatch" = { a = { "$gt" = 1 }, b = { "$mod" = [2, 1] } } }
[shapes.values.parameters]
owner = { type = "text" }
"""


@pytest.mark.parametrize("name", ["plain", "by_owner", "by_list", "values"])
def test_a_spec_makes_the_same_definition_again(name: str) -> None:
    declarations = read_rules(tomllib.loads(RULES))
    assert declarations.problems == ()
    definition = declarations.definitions[name]
    again = read_spec(name, spec_of(definition))
    assert again.digest == definition.digest
    assert (again.collection, again.types, again.lists) == (definition.collection, definition.types, definition.lists)
    assert spec_of(again) == spec_of(definition)


@pytest.mark.parametrize(
    "spec",
    [
        "nonsense",
        "[]",
        '{"collection": "orders", "where": {}}',
        '{"collection": "a/b", "where": {}, "parameters": {}}',
        '{"collection": "orders", "where": {}, "parameters": []}',
        '{"collection": "orders", "where": {}, "parameters": {"a": ["colour"]}}',
    ],
)
def test_a_spec_of_another_version_is_refused(spec: str) -> None:
    with pytest.raises(Malformed):
        read_spec("my_orders", spec)


def test_an_operator_of_another_version_is_refused() -> None:
    with pytest.raises(InvalidPredicate):
        read_spec("my_orders", '{"collection": "orders", "where": {"a": {"$near": 1}}, "parameters": {}}')


def test_a_spec_keeps_the_claims_that_parameters_take_their_values_from() -> None:
    table = {"type": "text", "from": "claims.https://example.com/team"}
    tree = {"collection": "orders", "where": {"a": "$a", "b": "$b"}, "parameters": {"a": table, "b": {"type": "int"}}}
    declarations = read_rules({"shapes": {"mine": tree}})
    assert declarations.problems == ()
    definition = declarations.definitions["mine"]
    again = read_spec("mine", spec_of(definition))
    assert again.claims == definition.claims == {"a": "https://example.com/team"}
    assert (again.types, again.digest) == (definition.types, definition.digest)
    plain = read_rules({"shapes": {"mine": tree | {"parameters": {"a": {"type": "text"}, "b": {"type": "int"}}}}})
    assert plain.definitions["mine"].digest == definition.digest, "a claim decides no keys"


@pytest.mark.parametrize("text", ["sub", "claims.", "$claims.sub", "claims." + "a" * 256, 5, None, ["claims.sub"]])
def test_a_parameter_from_something_else_than_a_claim_is_a_problem(text: object) -> None:
    parameters = {"a": {"type": "text", "from": text}}
    tree = {"shapes": {"mine": {"collection": "orders", "where": {"a": "$a"}, "parameters": parameters}}}
    (problem,) = read_rules(tree).problems
    assert problem.message == 'shapes.mine.parameters.a.from: names a claim: from = "claims.sub"'
