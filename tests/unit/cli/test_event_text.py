from __future__ import annotations

import re
from typing import Any

from eventsync.cli.event_text import lines

EVENT: dict[str, Any] = {
    "seq": 129,
    "collection": "orders",
    "id": "42",
    "op": "update",
    "base": 6,
    "version": 7,
    "at": "2026-11-23T05:22:46.405Z",
    "op_id": "k",
    "by": "ada",
}


def shown(**changes: Any) -> list[str]:
    return [line.plain for line in lines(EVENT | changes)]


def test_an_update_shows_one_line_an_operation() -> None:
    patch = [
        {"op": "replace", "path": "/status", "value": "paid"},
        {"op": "remove", "path": "/note"},
        {"op": "move", "path": "/b", "from": "/a"},
        {"op": "replace", "path": "", "value": {"$oid": "0" * 24}},
    ]
    head, *rest = shown(patch=patch)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:46\.405  129  update  42  6 → 7  by ada", head)
    assert rest == [
        '    replace /status "paid"',
        "    remove  /note",
        "    move    /b from /a",
        f'    replace (the document) {{"$oid":"{"0" * 24}"}}',
    ]


def test_a_create_shows_the_document_and_a_delete_nothing() -> None:
    assert shown(op="create", doc={"_id": "42", "n": 1})[1:] == ['    {"_id":"42","n":1}']
    assert shown(op="delete")[1:] == []


def test_an_event_that_enters_or_leaves_a_shape_says_so() -> None:
    entered, document = shown(op="create", enter=True, doc={"_id": "42"})
    assert entered.endswith("  129  enter   42  6 → 7  by ada")
    assert document == '    {"_id":"42"}'
    (left,) = shown(op="delete", leave=True)
    assert left.endswith("  129  leave   42  6 → 7  by ada")


def test_an_event_shows_its_author_and_transaction() -> None:
    assert shown(external=True)[0].endswith("  external")
    assert shown(txn={"id": "t", "n": 2, "of": 3})[0].endswith("  by ada  transaction 2/3")


def test_control_characters_of_an_event_are_escaped() -> None:
    text = "\n".join(shown(id="a\x1b[2J", by="b\x9b", op="create", doc={"_id": "\x9b31m\u202e"}))
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text)
    assert "a\\x1b[2J" in text
