"""Collapsing transactions whose changes lack images."""

from __future__ import annotations

from typing import Any

import pytest

from eventsync_workers.sequencing.collapse import NextChanges, collapse_transaction, lacks_images
from eventsync_workers.sequencing.converter import STAMPED

BEFORE, AFTER = {"fullDocumentBeforeChange": {"_id": 1}}, {"fullDocument": {"_id": 1}}


def change(kind: str, key: Any, **more: Any) -> dict[str, Any]:
    return {"operationType": kind, "ns": {"db": "app", "coll": "docs"}, "documentKey": {"_id": key}} | more


def told(*changes: dict[str, Any]) -> list[tuple[str, Any]]:
    found = collapse_transaction([(item, b"") for item in changes])
    return [(item["operationType"], item["documentKey"]["_id"]) for item, _ in found]


@pytest.mark.parametrize(
    ("kind", "images", "lacks"),
    [
        ("insert", AFTER, False), ("insert", {}, True), ("update", BEFORE | AFTER, False), ("update", AFTER, True),
        ("update", BEFORE, True), ("replace", AFTER, True), ("delete", BEFORE, False), ("delete", {}, True),
    ],
)  # fmt: skip
def test_lacks_images_by_kind_of_change(kind: str, images: dict[str, Any], lacks: bool) -> None:
    assert lacks_images(change(kind, 1, **images)) is lacks


def test_a_lone_change_and_a_transaction_with_all_images_are_not_collapsed() -> None:
    alone = [(change("update", 1), b"")]
    assert collapse_transaction(alone) is alone
    whole = [(change("insert", 1, **AFTER), b""), (change("update", 1, **BEFORE, **AFTER), b"")]
    assert collapse_transaction(whole) is whole


def test_a_document_that_lacks_an_image_keeps_its_last_change_only() -> None:
    changes = [
        change("insert", 1, **AFTER),
        change("update", 2, **BEFORE, **AFTER),
        change("update", 1),
        change("update", 2, **BEFORE, **AFTER),
        change("update", "1"),
        change("update", 1, **BEFORE, **AFTER),
    ]
    assert told(*changes) == [("update", 2), ("update", 2), ("update", "1"), ("update", 1)]
    last = collapse_transaction([(item, b"") for item in changes])[-1][0]
    assert "fullDocument" not in last, "they are states that no event has shown"
    assert "fullDocumentBeforeChange" not in last


def test_a_collapsed_delete_keeps_its_author() -> None:
    stamp = {"v": 4, "op": "o", "by": "b", "deleted": True}
    update = change("update", 1, updateDescription={"updatedFields": {"_sync": stamp}})
    ((delete, _),) = collapse_transaction([(update, b""), (change("delete", 1), b"")])
    assert delete[STAMPED] == stamp


def test_next_changes_are_those_of_the_same_document() -> None:
    changes = [(change("update", key), str(place).encode()) for place, key in enumerate((1, 2, 1, "1", 1))]
    following = NextChanges(changes)
    found = [following.after(place) for place in range(5)]
    assert [other and other[1] for other in found] == [b"2", None, b"4", None, None]
    assert NextChanges(()).after(0) is None
