"""A validator's refusal names the rules, and never the values."""

from __future__ import annotations

from typing import Any

import pytest

from eventsync.mongodb.validation import broken_rules


def schema(*rules: Any) -> dict[str, Any]:
    return {"operatorName": "$jsonSchema", "schemaRulesNotSatisfied": list(rules)}


def rule(operator: str, **more: Any) -> dict[str, Any]:
    return {"operatorName": operator, "specifiedAs": {operator: "SECRET"}, **more}


BSON_TYPE = rule("bsonType", reason="type did not match", consideredValue="SECRET", consideredType="string")
OF_N = {"propertyName": "n", "description": "SECRET", "details": [BSON_TYPE]}


@pytest.mark.parametrize(
    ("details", "says"),
    [
        (None, "its rules are not known"),
        ({}, "its rules are not known"),
        ("SECRET", "its rules are not known"),
        (schema(rule("required", missingProperties=["name", "n"])), "required (name, n)"),
        (schema(rule("properties", propertiesNotSatisfied=[OF_N])), "properties.n.bsonType"),
        (schema(rule("properties", propertiesNotSatisfied=[OF_N, OF_N])), "properties.n.bsonType"),
        (schema(rule("items", itemIndex=2, details=[BSON_TYPE])), "items.2.bsonType"),
        (schema(rule("anyOf", schemasNotSatisfied=[{"index": 0, "details": [BSON_TYPE]}])), "anyOf.0.bsonType"),
        (
            {"operatorName": "$gt", "specifiedAs": {"n": {"$gt": 5}}, "reason": "x", "consideredValue": "SECRET"},
            "n.$gt",
        ),
        (
            {
                "operatorName": "$and",
                "clausesNotSatisfied": [
                    {"index": 1, "details": {"operatorName": "$in", "specifiedAs": {"a.b": {"$in": ["SECRET"]}}}}
                ],
            },
            "$and.1.a.b.$in",
        ),
        ({"operatorName": "$expr", "specifiedAs": {"$expr": {"$gt": ["$a", "SECRET"]}}}, "$expr"),
    ],
)
def test_rules_are_named_and_values_are_not(details: Any, says: str) -> None:
    assert broken_rules(details) == says


@pytest.mark.parametrize(
    "details",
    [
        schema(rule("additionalProperties", additionalProperties=["_sync"])),
        schema(rule("maxProperties", numberOfProperties=4)),
        schema(rule("properties", propertiesNotSatisfied=[{"propertyName": "_sync", "details": [BSON_TYPE]}])),
    ],
)
def test_the_error_of_a_strict_schema_names_what_it_lacks(details: Any) -> None:
    assert '"properties": {"_sync"' in broken_rules(details)
    assert "SECRET" not in broken_rules(details)


def test_many_rules_are_not_all_named() -> None:
    many = [{"propertyName": f"f{number}", "details": [BSON_TYPE]} for number in range(100)]
    text = broken_rules(schema(rule("properties", propertiesNotSatisfied=many)))
    assert text.count("bsonType") == 10
    assert text.endswith("and more")
