"""Redaction: single documents, filters and values that are awkward."""

from __future__ import annotations

from typing import Any

import pytest
from bson.code import Code
from bson.dbref import DBRef
from bson.objectid import ObjectId

from eventsync.domain.access.redaction import Redaction, check_redacted
from eventsync.domain.bson_scan.opaque import Opaque, UnreadableDocument
from eventsync.errors import InvalidPredicate
from support.replica import to_tree


def hiding(*paths: str, fields: list[str] | None = None) -> Redaction:
    return Redaction([check_redacted(path, "hide") for path in paths], fields)


@pytest.mark.parametrize(
    ("paths", "document", "shown"),
    [
        (["a"], {"_id": 1, "a": 1, "b": 2}, {"_id": 1, "b": 2}),
        (["a.b"], {"a": {"b": 1, "c": 2}}, {"a": {"c": 2}}),
        (["a.b"], {"a": [{"b": 1, "c": 2}, [{"b": 1}], 5]}, {"a": [{"c": 2}, [{}], 5]}),
        (["a.b"], {"a": {"0": {"b": 1}, "x": {"b": 1}}}, {"a": {"0": {}, "x": {"b": 1}}}),
        (["a.b"], {"a": 5}, {"a": 5}),
        (["a.*"], {"a": [1, {"b": 2}]}, {"a": []}),
        (["a.*.b"], {"a": {"x": {"b": 1, "c": 2}, "b": 3}}, {"a": {"x": {"c": 2}, "b": 3}}),
        (["*.b"], {"_id": {"b": 1}, "a": {"b": 1, "c": 2}, "b": 3}, {"_id": {"b": 1}, "a": {"c": 2}, "b": 3}),
        (["0"], {"0": 1, "a": 2}, {"a": 2}),
        (["*"], {"_id": 1, "a": 2}, {"_id": 1}),
        (["a.x"], {"a": DBRef("c", 1, x=5, y=6)}, {"a": {"$ref": "c", "$id": 1, "y": 6}}),
        (["a.x"], {"a": DBRef("c", 1, y=6)}, {"a": DBRef("c", 1, y=6)}),
        (["a.*.x"], {"a": Code("f", {"x": 1})}, {"a": {"$code": "f", "$scope": {}}}),
        (["a.*"], {"a": ObjectId("65a000000000000000000001")}, {"a": ObjectId("65a000000000000000000001")}),
        (["a.*.x"], {"a": {"$scope": {"x": 1}}}, {"a": {"$scope": {}}}),
        (["a.*.x"], {"a": {"$date": {"x": 1}}}, {"a": {"$date": {}}}),
        (["a.b"], {"a": Opaque(3, b"\x05\0\0\0\1")}, {"a": None}),
        (["a.b"], {"a": Opaque(2, b"\2\0\0\0\xff\0")}, {"a": Opaque(2, b"\2\0\0\0\xff\0")}),
    ],
)
def test_a_document_is_shown_without_what_is_hidden(
    paths: list[str], document: dict[str, Any], shown: dict[str, Any]
) -> None:
    redaction = hiding(*paths)
    assert redaction.strip(document) == shown
    assert redaction.strip(to_tree(document)) == to_tree(shown)


def test_a_document_that_can_not_be_read_shows_its_id_alone() -> None:
    document = UnreadableDocument({"_id": 1, "$opaque": Opaque(3, b"\x05\0\0\0\1")})
    stripped = hiding("a").strip(document)
    assert stripped == {"_id": 1}
    assert isinstance(stripped, UnreadableDocument)


@pytest.mark.parametrize(
    ("paths", "path", "is_hidden"),
    [
        (["a.b"], "a.b", True),
        (["a.b"], "a.b.c", True),
        (["a.b"], "a", True),
        (["a.b"], "a.0.b", True),
        (["a.b"], "a.c", False),
        (["a.b"], "b", False),
        (["a.*.c"], "a.c", True),
        (["a.*.c"], "a.c.d", True),
        (["a.*.*.c"], "a.c", True),
        (["a.*.c"], "a.0.c", True),
        (["a"], "_id", False),
        (["*"], "_id", False),
        (["*"], "a", True),
        (["*.b"], "x.b", True),
    ],
)
def test_a_filter_may_not_touch_what_is_hidden(paths: list[str], path: str, is_hidden: bool) -> None:
    """A filter enters the items of an array without naming them."""
    assert hiding(*paths).hides(path) is is_hidden


def test_a_white_list_hides_all_other_fields() -> None:
    redaction = hiding("a.x", fields=["a", "b"])
    assert redaction.strip({"_id": 1, "a": {"x": 1, "y": 2}, "b": 3, "c": 4}) == {"_id": 1, "a": {"y": 2}, "b": 3}
    assert [redaction.hides(path) for path in ("_id", "a.x", "a.y", "b", "c")] == [False, True, False, False, True]
    assert redaction.redact([{"op": "add", "path": "/c", "value": 1}, {"op": "remove", "path": "/b"}]) == [
        {"op": "remove", "path": "/b"}
    ]


@pytest.mark.parametrize("path", ["", "a..b", "_id", "_id.x", "a.$b", "a.0", "a.x*", "_sync", "_sync.by", 5, "a\0"])
def test_a_path_that_can_not_be_hidden_is_refused(path: Any) -> None:
    with pytest.raises(InvalidPredicate):
        check_redacted(path, "hide")
