"""Writes of authors with guards: what they may see and change decides, and nothing else shows."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest
from bson.int64 import Int64

from eventsync.domain.bson_scan.opaque import encode
from eventsync.domain.condition import Condition, Tags
from eventsync.domain.entity_tag import digest_of
from eventsync.domain.values.extended_json import Document, JsonText
from eventsync.errors import Conflict, EventsyncError, Forbidden, NotFound, PatchFailed, TooLarge, VersionMismatch
from eventsync.nodestorage import (
    Author,
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
from eventsync.nodestorage.deciding import created, decided, encoded_node
from eventsync.nodestorage.intent import Insert, Modify, PlannedWrite, intent_of
from eventsync.nodestorage.node import node_of
from support.documents import joined
from support.guards import OWNERS, guard

ADA = Author("ada", "op", {"c": guard("ada")})
MINE = Node(1, 4, {"_id": 1, "owner": "ada", "n": 1, "secret": "canary", "lines": [{"cost": 7, "of": "x"}]})
SHOWN = {"_id": 1, "owner": "ada", "n": 1, "lines": [{"of": "x"}]}
HERS = Node(1, 9, {"_id": 1, "owner": "bob", "secret": "canary", "n": 1})
PUBLIC = Node(1, 2, {"_id": 1, "owner": "bob", "public": True, "n": 1, "secret": "canary"})


def write(operation: WriteOperation, stored: Node | None, author: Author = ADA) -> PlannedWrite:
    return intent_of(operation, WritePolicy()).decide(stored, author)


def error(operation: WriteOperation, stored: Node | None) -> EventsyncError:
    with pytest.raises(EventsyncError) as raised:
        write(operation, stored)
    assert "canary" not in str(raised.value)
    return raised.value


IF_VERSION = Condition.at_version(9)
OPERATIONS: list[Callable[[Condition | None], WriteOperation]] = [
    lambda condition: Update("c", 1, MergePatch({"n": 2}), condition),
    lambda condition: Update("c", 1, JsonPatch([{"op": "test", "path": "/secret", "value": "canary"}]), condition),
    lambda condition: Replace("c", 1, JsonDocument({"owner": "bob"}), condition),
    lambda condition: Replace("c", 1, JsonDocument({"owner": "bob"}), condition, upsert=True),
    lambda condition: Delete("c", 1, condition),
]


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("condition", [None, IF_VERSION, Condition(match=Tags(any_state=True)), Condition.absent()])
def test_unreadable_document_is_like_a_missing_one(operation: Any, condition: Condition | None) -> None:
    missing, unreadable = error(operation(condition), None), error(operation(condition), HERS)
    assert (type(unreadable), unreadable.args, vars(unreadable)) == (type(missing), missing.args, vars(missing))


def test_new_document_in_the_place_of_an_unreadable_one_is_a_conflict() -> None:
    """The id is taken, which a POST would say in the same words; but it does not say that it is hidden."""
    mine = Replace("c", 1, JsonDocument({"owner": "ada"}), upsert=True)
    assert isinstance(write(mine, None).write, Insert)
    found = error(mine, HERS)
    assert isinstance(found, Conflict)
    assert (found.lasting, found.existing) == (True, None)


def test_readable_document_that_may_not_be_written_is_refused() -> None:
    for operation in (
        Update("c", 1, MergePatch({"n": 2})),
        Replace("c", 1, JsonDocument({"owner": "bob", "public": True})),
        Delete("c", 1),
    ):
        assert isinstance(error(operation, PUBLIC), Forbidden)
    assert isinstance(error(Create("c", {"owner": "bob"}), None), Forbidden)


def test_collection_without_a_guard_is_closed() -> None:
    for operation in (Create("other", {"owner": "ada"}), Update("other", 1, MergePatch({})), Delete("other", 1)):
        assert isinstance(error(operation, MINE), Forbidden)


def test_edit_changes_what_is_seen_and_keeps_what_is_hidden() -> None:
    change = write(Update("c", 1, MergePatch({"n": 2})), MINE)
    assert isinstance(change.write, Modify)
    assert change.write.update["$set"]["n"] == 2
    assert "secret" not in str(change.write)
    assert change.result.document == SHOWN | {"n": 2}
    assert change.result.patch == [{"op": "replace", "path": "/n", "value": 2}]
    assert change.result.digest == digest_of(SHOWN | {"n": 2})


def test_put_keeps_what_is_hidden() -> None:
    body = {"owner": "ada", "m": 3, "lines": [{"of": "x"}]}
    change = write(Replace("c", 1, JsonDocument(body)), MINE)
    assert isinstance(change.write, Modify)
    assert change.write.update["$unset"] == {"n": ""}
    assert change.result.document == {"_id": 1, "owner": "ada", "m": 3, "lines": [{"of": "x"}]}


@pytest.mark.parametrize(
    "edit",
    [
        MergePatch({"secret": "mine"}),
        MergePatch({"lines": None}),
        MergePatch({"lines": [{"cost": 0, "of": "x"}]}),
        JsonPatch([{"op": "add", "path": "/lines/0/cost", "value": 0}]),
        JsonPatch([{"op": "remove", "path": "/lines/0"}]),
    ],
)
def test_edit_of_a_hidden_field_is_refused(edit: Any) -> None:
    assert isinstance(error(Update("c", 1, edit), MINE), Forbidden)


def test_patch_can_not_test_copy_or_move_a_hidden_value() -> None:
    for operation in (
        {"op": "test", "path": "/secret", "value": "canary"},
        {"op": "copy", "from": "/secret", "path": "/n"},
        {"op": "move", "from": "/lines/0/cost", "path": "/n"},
    ):
        assert isinstance(error(Update("c", 1, JsonPatch([operation])), MINE), PatchFailed)


def test_conditions_compare_the_tag_of_what_is_seen() -> None:
    whole, seen = (f"4.{digest_of(document)}" for document in (MINE.document, SHOWN))
    edit = MergePatch({"n": 2})
    assert write(Update("c", 1, edit, Condition(match=Tags(frozenset({seen})))), MINE).write is not None
    found = error(Update("c", 1, edit, Condition(match=Tags(frozenset({whole})))), MINE)
    assert isinstance(found, VersionMismatch)
    assert (found.etag, found.current) == (f'"{seen}"', 4)
    # A tag of another hidden value is no other state.
    other = Node(1, 4, MINE.document | {"secret": "other"})
    assert write(Update("c", 1, edit, Condition(match=Tags(frozenset({seen})))), other).write is not None


def test_answer_to_a_write_without_effect_shows_what_is_seen() -> None:
    change = write(Update("c", 1, MergePatch({})), MINE)
    assert (change.write, change.result.document, change.result.patch) == (None, SHOWN, [])
    assert change.result.digest == digest_of(SHOWN)


def test_document_given_away_is_not_shown() -> None:
    author = Author("ada", "op", {"c": guard("ada", OWNERS | {"after": True})})
    result = write(Update("c", 1, MergePatch({"owner": "bob", "n": "canary"})), MINE, author).result
    assert (result.withheld, result.document, result.patch, result.etag) == (True, None, [], None)
    assert (result.id, result.version) == ("int:1", 5)


def test_too_large_document_does_not_tell_the_size_of_what_is_hidden() -> None:
    policy = WritePolicy(document_bytes=400)
    stored = Node(1, 1, {"_id": 1, "owner": "ada", "secret": "s" * 350})
    with pytest.raises(TooLarge) as raised:
        intent_of(Update("c", 1, MergePatch({"n": "x" * 50})), policy).decide(stored, ADA)
    assert raised.value.message == "the document would have more than 400 bytes"


def test_helper_process_decides_with_the_guard() -> None:
    """Its arguments are pickled."""
    author = pickle.loads(pickle.dumps(ADA.within("c")))  # noqa: S301 - made here
    raw = encode(MINE.document | {"_sync": {"v": Int64(4), "op": "o", "by": "b"}})
    change = decided(Update("c", 1, MergePatch(JsonText(b'{"n": 2}'))), WritePolicy(), raw, author)
    assert b"canary" not in change.bson
    assert b"canary" not in change.result.document.text
    with pytest.raises(Forbidden):
        decided(Update("c", 1, MergePatch(JsonText(b'{"secret": 2}'))), WritePolicy(), raw, author)
    with pytest.raises(Forbidden):
        created(Create("c", JsonDocument(JsonText(b'{"owner": "bob"}'))), WritePolicy(), author)


def test_read_document_is_what_the_guard_shows_with_its_tag() -> None:
    node = encoded_node(encode(MINE.document), True, guard("ada"))
    assert node is not None
    assert b"canary" not in node.document.text
    assert node.digest == digest_of(SHOWN)
    assert encoded_node(encode(HERS.document), True, guard("ada")) is None


def test_author_for_one_collection_keeps_its_guard_alone() -> None:
    author = Author("ada", "op", {"c": guard("ada"), "d": guard("ada", collection="d")})
    assert set(author.within("c").guards or {}) == {"c"}
    with pytest.raises(NotFound):
        write(Delete("c", 1), None, author.within("c"))


# --- field names that stand twice -----------------------------------------------------------------------------------


def stored_twice(*parts: Document) -> Node:
    return node_of(joined(*parts), tell=True)


OPEN = {"read": True}
TWO_OWNERS = ({"_id": 1, "owner": "bob", "n": 1}, {"owner": "ada"})
TWO_LOCKS = ({"_id": 1, "locked": True, "n": 1}, {"locked": False})
IN_A_LINE = ({"_id": 1, "n": 1, "lines": [joined({"of": "y"}, {"of": "x"})]},)


@pytest.mark.parametrize(
    ("rule", "parts"),
    [
        ({"owner": "$claims.sub"}, TWO_OWNERS),
        ({"locked": {"$ne": True}}, TWO_LOCKS),
        ({"$nor": [{"locked": True}]}, TWO_LOCKS),
        ({"locked": {"$exists": True}}, TWO_LOCKS),
        ({"lines": {"$elemMatch": {"of": "x"}}}, IN_A_LINE),
        ({"lines.of": "x"}, IN_A_LINE),
    ],
)
def test_no_write_rule_is_decided_by_a_field_name_that_stands_twice(rule: Any, parts: tuple[Document, ...]) -> None:
    """MongoDB finds the document by the first value, and the last is decoded."""
    twice = stored_twice(*parts)
    for hidden in ({}, {"hide": ["secret"]}):
        for rules in ({"update": rule}, {"update": True, "after": rule}):
            ada = Author("ada", "op", {"c": guard("ada", OPEN | hidden | rules)})
            with pytest.raises(Forbidden):
                write(Update("c", 1, MergePatch({"n": 2})), twice, ada)
        ada = Author("ada", "op", {"c": guard("ada", OPEN | hidden | {"delete": rule})})
        with pytest.raises(Forbidden):
            write(Delete("c", 1), twice, ada)


def test_other_fields_decide_about_a_document_with_a_name_twice() -> None:
    ada = Author("ada", "op", {"c": guard("ada", OPEN | {"update": {"n": 1}, "after": {"n": 2}, "delete": {"n": 1}})})
    twice = stored_twice(*TWO_OWNERS)
    assert isinstance(write(Update("c", 1, MergePatch({"n": 2})), twice, ada).write, Modify)
    assert write(Delete("c", 1), twice, ada).write is not None


def test_an_edited_document_is_not_shown_by_a_field_name_that_stands_twice() -> None:
    """The edit ends the reading by `public`, and `owner` alone would allow it."""
    for table in (OWNERS, {name: rule for name, rule in OWNERS.items() if name != "hide"}):
        ada = Author("ada", "op", {"c": guard("ada", table | {"update": {"n": 1}, "after": {"n": 1}})})
        twice = stored_twice(TWO_OWNERS[0] | {"public": True}, {"owner": "ada"})
        change = write(Update("c", 1, MergePatch({"public": False})), twice, ada)
        assert isinstance(change.write, Modify)
        assert (change.result.document, change.result.withheld) == (None, True)
