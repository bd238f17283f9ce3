"""The pages about predicates and the rules file, against the code."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from eventsync.domain.predicates import declarations, definitions, keys, parsing
from eventsync.domain.predicates.declarations import filter_of_tree
from eventsync.domain.predicates.parameter_types import TYPES
from eventsync.domain.predicates.predicate import Predicate
from eventsync.errors import InvalidPredicate
from eventsync.rules.file import read_tree
from eventsync.rules.trial import read_cases, tried

_REFERENCE = Path(__file__).parents[4] / "docs" / "reference"
PREDICATES = (_REFERENCE / "predicates.md").read_text()
RULES = (_REFERENCE / "rules.md").read_text()


def test_the_example_of_a_predicate_is_one() -> None:
    (example,) = re.findall(r"```json\n(.*?)```", PREDICATES, re.DOTALL)
    Predicate(filter_of_tree(json.loads(example)))


def test_the_examples_of_a_rules_file_have_no_problems() -> None:
    for example in re.findall(r"```toml\n(.*?)```", RULES, re.DOTALL):
        if not example.startswith("# cases"):
            assert read_tree(tomllib.loads(example)).problems == ()


def test_the_example_of_cases_comes_out_as_expected(tmp_path: Path) -> None:
    rules, cases = (
        next(example for example in re.findall(r"```toml\n(.*?)```", RULES, re.DOTALL) if example.startswith(start))
        for start in ("[auth]", "# cases")
    )
    (tmp_path / "cases.toml").write_text(cases)
    (case,) = read_cases(tmp_path / "cases.toml")
    access = read_tree(tomllib.loads(rules)).access
    assert access is not None
    assert tried(access, case).wrong == ""


def test_the_page_has_each_operator_and_each_type() -> None:
    operators, refused = PREDICATES.split("## What is refused")
    assert {*parsing._OPERATORS, *parsing.LOGICAL} == set(re.findall(r"\$[a-zA-Z]+", operators)) - {
        "$oid",
        "$date",
        "$numberDecimal",
    }
    named = set(re.findall(r"\$[a-zA-Z]+", refused))
    assert parsing._REFUSED_OPERATORS.keys() - {"$options"} <= named
    types = RULES.split("## Parameters")[0].split("| `type` |")[1]
    assert TYPES.keys() <= set(re.findall(r"`(\w+)`", types))


@pytest.mark.parametrize(
    ("page", "limit"),
    [
        (PREDICATES, f"{parsing.MAX_NODES} conditions"),
        (PREDICATES, f"{parsing.MAX_LEVELS} levels"),
        (PREDICATES, f"{parsing.MAX_LIST:,} values"),
        (RULES, f"{declarations.MAX_DEFINITIONS} shapes"),
        (RULES, f"{definitions.MAX_PARAMETERS} parameters"),
        (RULES, f"{definitions.MAX_BRANCHES} combinations"),
        (RULES, f"{keys.MAX_KEYS:,} keys"),
    ],
)
def test_the_pages_have_each_limit(page: str, limit: str) -> None:
    assert limit in page


@pytest.mark.parametrize(
    "where",
    [
        {"at": {"$gt": "$p"}},
        {"a": {"$ne": "$p"}},
        {"a": {"$elemMatch": {"b": "$p"}}},
        {"a": {"b": "$p"}},
        {"a": {"$in": ["$p", "b"]}},
        {"$or": [{"a": "$p"}, {"b": 1}]},
        {"a": "$p", "b": "$p"},
    ],
)
def test_each_refusal_of_the_page_is_raised(where: dict[str, Any]) -> None:
    with pytest.raises(InvalidPredicate):
        definitions.define("s", "c", where, {"p": ["any"]})
