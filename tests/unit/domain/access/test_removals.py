"""Names of the fields that redaction removes from events."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from eventsync.domain.access.redaction import Redaction
from eventsync.domain.access.removals import removed_fields

HIDDEN = Redaction([("secret",), ("lines", "cost"), ("by_name", "*", "iban")])
DOCUMENT = {"secret": 1, "lines": [{"cost": 1, "of": "x"}, {"cost": 2}], "by_name": {"ada": {"iban": "x"}}, "n": 1}


def body(**fields: Any) -> bytes:
    return orjson.dumps({"seq": 1, "op": "update"} | fields)


def test_document_loses_each_hidden_field_as_often_as_it_has_it() -> None:
    found = removed_fields(body(doc=DOCUMENT), "stay", None, HIDDEN)
    assert found == {"secret": 1, "lines.*.cost": 2, "by_name.ada.iban": 1}


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        ({"op": "replace", "path": "/secret", "value": 7}, {"secret": 1}),
        ({"op": "remove", "path": "/lines/0/cost"}, {"lines.*.cost": 1}),
        ({"op": "add", "path": "/lines/1", "value": {"cost": 7, "of": "y"}}, {"lines.*.cost": 1}),
        ({"op": "add", "path": "/by_name/bob~1b", "value": {"iban": 7}}, {"by_name.bob/b.iban": 1}),
        ({"op": "replace", "path": "/n", "value": 7}, {}),
        ({"op": "remove", "path": "/n"}, {}),
    ],
)
def test_patch_loses_operations_and_parts_of_values(operation: dict[str, Any], expected: dict[str, int]) -> None:
    assert removed_fields(body(patch=[operation]), "stay", None, HIDDEN) == expected


def test_document_that_enters_counts_in_place_of_the_patch() -> None:
    patch = [{"op": "replace", "path": "/n", "value": 7}]
    assert removed_fields(body(patch=patch), "enter", orjson.dumps(DOCUMENT), HIDDEN)["secret"] == 1


def test_document_that_leaves_loses_nothing() -> None:
    assert not removed_fields(body(doc=DOCUMENT), "leave", None, HIDDEN)


def test_white_list_removes_whatever_it_does_not_name() -> None:
    found = removed_fields(body(doc=DOCUMENT), "stay", None, Redaction(fields=["n", "lines"]))
    assert found == {"secret": 1, "by_name": 1}


def test_long_names_are_cut_off() -> None:
    (name,) = removed_fields(body(doc={"x" * 500: 1}), "stay", None, Redaction(fields=["n"]))
    assert len(name) == 100
