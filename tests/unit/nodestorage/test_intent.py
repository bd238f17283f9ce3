"""From an operation and the stored document to what is written: decided without MongoDB."""

from __future__ import annotations

from typing import Any

import pytest
from bson.int64 import Int64
from bson.objectid import ObjectId

from eventsync.domain.stamp import Stamp
from eventsync.domain.values.extended_json import decode
from eventsync.errors import Malformed, NotFound, TooLarge, VersionMismatch
from eventsync.nodestorage import (
    Author,
    Condition,
    Create,
    Delete,
    JsonDocument,
    JsonPatch,
    MergePatch,
    Node,
    Replace,
    Update,
    WriteOperation,
    WritePolicy,
)
from eventsync.nodestorage.intent import Insert, Modify, PlannedWrite, Remove, intent_of

AUTHOR = Author("tester", "operation-1")
NODE = Node(1, 4, {"_id": 1, "n": Int64(1), "deep": {"a": 1, "b": 2}})
STAMP = {"v": Int64(5), "op": "operation-1", "by": "tester"}


def decided(operation: WriteOperation, stored: Node | None = NODE) -> PlannedWrite:
    return intent_of(operation, WritePolicy()).decide(stored, AUTHOR)


def test_an_update_is_minimal_and_stamped() -> None:
    change = decided(Update("c", 1, MergePatch({"deep": {"a": 9, "b": None}})))
    assert change.write == Modify({"$set": {"deep.a": 9, "_sync": STAMP}, "$unset": {"deep.b": ""}})
    assert change.result.patch == [
        {"op": "remove", "path": "/deep/b"},
        {"op": "replace", "path": "/deep/a", "value": 9},
    ]
    assert change.result.version == 5


def test_a_removal_alone_still_stamps() -> None:
    change = decided(Update("c", 1, MergePatch({"deep": None})))
    assert change.write == Modify({"$set": {"_sync": STAMP}, "$unset": {"deep": ""}})


def test_a_change_that_no_path_can_express_replaces_the_document() -> None:
    change = decided(Update("c", 1, MergePatch({"a.b": 1})))
    after = {**NODE.document, "a.b": 1}
    assert change.write == Modify([{"$replaceWith": {"$literal": {**after, "_sync": STAMP}}}])


SENT = {"deep": {"b": 2, "a": 1}, "n": 1}
"""The document as JSON, with its fields in another order, and no type named for its numbers."""


def test_no_change_writes_nothing() -> None:
    for operation in (Update("c", 1, JsonPatch([])), Replace("c", 1, JsonDocument(SENT))):
        change = decided(operation)
        assert change.write is None
        assert (change.result.version, change.result.document, change.result.patch) == (4, NODE.document, [])


def test_creations() -> None:
    made = decided(Create("c", {"n": 1}), None)
    assert isinstance(made.write, Insert)
    assert isinstance(made.write.document["_id"], ObjectId)
    assert decode(made.write.document.raw)["_sync"] == STAMP | {"v": 1}
    upserted = decided(Replace("c", 7, {"n": 1}, upsert=True), None)
    assert isinstance(upserted.write, Insert)
    assert decode(upserted.write.document.raw) == {"_id": 7, "n": 1, "_sync": STAMP | {"v": 1}}
    assert (upserted.result.created, upserted.result.version) == (True, 1)


def test_an_intent_makes_one_id_however_often_it_is_decided() -> None:
    intent = intent_of(Create("c", {}), WritePolicy())
    first, second = intent.decide(None, AUTHOR), intent.decide(None, AUTHOR)
    assert first.result.id == second.result.id == str(intent.id)


def test_a_deletion_leaves_its_mark_first() -> None:
    change = decided(Delete("c", 1, Condition.at_version(4)))
    assert change.write == Remove(Stamp(5, "operation-1", "tester", deleted=True))
    assert (change.result.version, change.result.document) == (5, None)


@pytest.mark.parametrize(
    "operation",
    [
        Update("c", 1, MergePatch({}), Condition.at_version(3)),
        Replace("c", 1, {}, Condition.at_version(3)),
        Delete("c", 1, Condition.at_version(3)),
        Replace("c", 1, {}, Condition.absent(), upsert=True),
    ],
)
def test_other_versions_are_refused(operation: WriteOperation) -> None:
    with pytest.raises(VersionMismatch) as failure:
        decided(operation)
    assert failure.value.current == 4


@pytest.mark.parametrize("operation", [Update("c", 1, MergePatch({})), Replace("c", 1, {}), Delete("c", 1)])
def test_an_edit_of_a_missing_document_raises_not_found(operation: WriteOperation) -> None:
    with pytest.raises(NotFound, match="c/int:1"):
        decided(operation, None)


def test_a_function_gets_a_copy() -> None:
    def edit(document: dict[str, Any]) -> dict[str, Any]:
        document["deep"].clear()
        return document

    assert decided(Update("c", 1, edit)).result.patch != []
    assert NODE.document["deep"] == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("operation", "error"),
    [
        (Create("c", {"_sync": {}}), Malformed),
        (Create("c", {"_id": []}), Malformed),
        (Replace("c", 1, {"_id": 2}), Malformed),
        (Replace("c", [1], {}), Malformed),
        (Update("c", 1, JsonPatch(None)), Malformed),
        (Update("c", 1, JsonPatch([{}] * 1001)), TooLarge),
        (Create("c", {"n": "x" * (16 * 1024 * 1024)}), TooLarge),
    ],
)
def test_a_bad_operation_is_refused_before_any_read(operation: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        intent_of(operation, WritePolicy())


def test_an_id_may_be_written_as_an_equal_number() -> None:
    node = Node(Int64(5), 1, {"_id": Int64(5), "n": 1})
    change = decided(Replace("c", Int64(5), {"_id": 5, "n": 2}), node)
    assert change.result.document == {"_id": Int64(5), "n": 2}
    assert isinstance((change.result.document or {})["_id"], Int64)
