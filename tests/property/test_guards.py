"""Guards over random documents, redactions and edits: what is hidden neither changes nor shows."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from property.test_redaction import is_below, redactions

from eventsync.domain.access.grants import ReadGrant
from eventsync.domain.access.guards import WriteGuard, WriteRules
from eventsync.domain.access.redaction import Paths, Redaction
from eventsync.domain.patches.json_patch import JsonPatch
from eventsync.domain.values.extended_json import Document, decode, same, to_json
from eventsync.errors import EventsyncError, Forbidden, Malformed
from support.documents import documents, pairs
from support.replica import to_tree

_EXAMPLES = 150


def guard_of(redaction: Redaction) -> WriteGuard:
    rules = WriteRules("all", True, True, None, True, redaction, Paths(()))
    return WriteGuard(ReadGrant.of("c", None, redaction), [rules], {}, (guard_of, (redaction,)))


def hidden_values(redaction: Redaction, value: Any, path: tuple[str, ...] = ()) -> list[Any]:
    """The hidden values of a document in their order, each as a whole."""
    items = enumerate(value) if isinstance(value, list) else value.items() if isinstance(value, dict) else ()
    found = []
    for name, item in items:
        way = (*path, str(name))
        if any(is_below(way, hidden) for hidden in redaction.hide) or _is_left_out(way, redaction):
            found.append(item)
        else:
            found += hidden_values(redaction, item, way)
    return found


def _is_left_out(way: tuple[str, ...], redaction: Redaction) -> bool:
    return redaction.fields is not None and len(way) == 1 and way[0] not in {*redaction.fields, "_id"}


def outcome(guard: WriteGuard, before: Document, after: Document | None) -> Any:
    """The visible outcome of an edit to `after`: the document, or the error."""
    try:
        return guard.shown(guard.edit(before, lambda seen: seen if after is None else after))
    except EventsyncError as error:
        return type(error), error.message


@settings(max_examples=_EXAMPLES)
@given(documents(), redactions())
def test_putting_back_what_was_read_changes_nothing(before: Document, redaction: Redaction) -> None:
    guard = guard_of(redaction)
    seen = redaction.strip(before)
    again = guard.edit(before, lambda _: copy.deepcopy(seen))
    assert same(again, before)


@settings(max_examples=_EXAMPLES)
@given(pairs(), redactions())
def test_an_edit_is_done_as_it_is_seen_and_keeps_what_is_hidden(
    pair: tuple[Document, Document], redaction: Redaction
) -> None:
    before, wanted = pair[0], redaction.strip(pair[1])
    kept = copy.deepcopy(before)
    try:
        after = guard_of(redaction).edit(before, lambda _: wanted)
    except Forbidden:
        return
    assert same(redaction.strip(after), wanted)
    was, now = hidden_values(redaction, before), hidden_values(redaction, after)
    assert same({"": was}, {"": now})
    assert same(before, kept), "the stored document was changed"


@settings(max_examples=_EXAMPLES)
@given(pairs(), redactions(), st.booleans())
def test_the_outcome_of_an_edit_does_not_depend_on_what_is_hidden(
    pair: tuple[Document, Document], redaction: Redaction, sees_all: bool
) -> None:
    before, wanted = pair
    guard = guard_of(redaction)
    after = wanted if sees_all else redaction.strip(wanted)
    first, second = outcome(guard, before, after), outcome(guard, redaction.strip(before), after)
    assert same({"": first}, {"": second})


@settings(max_examples=_EXAMPLES)
@given(documents(), redactions(), st.data())
def test_tests_and_copies_of_a_patch_find_nothing_hidden(
    before: Document, redaction: Redaction, data: st.DataObject
) -> None:
    tree = to_tree(before)
    pointers = ["/nothing", *(f"/{name}".replace("~", "~0") for name in tree if "/" not in name and name)]
    source = data.draw(st.sampled_from(pointers))
    value = tree.get(source[1:].replace("~0", "~"), 1)
    operation = data.draw(
        st.sampled_from(
            [
                {"op": "test", "path": source, "value": value},
                {"op": "copy", "from": source, "path": "/copied"},
                {"op": "move", "from": source, "path": "/moved"},
            ]
        )
    )
    try:
        edit = JsonPatch([operation]).prepared(operations=10, document_bytes=10_000, steps=10_000)
    except Malformed:
        return
    guard = guard_of(redaction)

    def tried(document: Document) -> Any:
        try:
            return guard.shown(guard.edit(document, edit))
        except EventsyncError as error:
            return type(error), error.message

    assert same({"": tried(before)}, {"": tried(redaction.strip(before))})


def test_a_guarded_document_is_the_bson_that_it_was() -> None:
    guard = guard_of(Redaction([("a", "x")]))
    before = decode(bytes(_bson({"_id": 1, "a": {"x": 1.0, "y": 2}, "b": [1, 2.0]})))
    after = guard.edit(before, lambda seen: {**seen, "b": [1, 2.0, 3]})
    assert to_json(after) == b'{"_id":1,"a":{"x":1.0,"y":2},"b":[1,2.0,3]}'


def _bson(document: Document) -> bytes:
    from eventsync.domain.bson_scan.opaque import encode

    return encode(document)
