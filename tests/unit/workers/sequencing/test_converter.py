from __future__ import annotations

import math
import uuid
from typing import Any

import bson
import pytest
from bson import Int64, ObjectId
from bson.raw_bson import RawBSONDocument

from eventsync.domain.bson_scan.opaque import Opaque
from eventsync.domain.events import Event
from eventsync.domain.values.extended_json import RAW_CODEC, same
from eventsync_workers.sequencing.converter import StateMissing, convert, convert_raw, decode_change, encode_change
from support.changes import AT, change


def stamped(version: int, **fields: Any) -> dict[str, Any]:
    return {"_id": 1, "_sync": {"v": Int64(version), "op": f"op{version}", "by": "ann"}} | fields


def update(before: dict[str, Any] | None, after: dict[str, Any] | None) -> Event | None:
    return convert(change("update", fullDocumentBeforeChange=before, fullDocument=after))


def the(event: Event | None) -> Event:
    assert event is not None
    return event


def test_an_insert_is_a_create() -> None:
    event = the(convert(change("insert", fullDocument=stamped(1, a=1))))
    assert (event.op, event.base, event.version, event.op_id, event.by) == ("create", 0, 1, "op1", "ann")
    assert event.document == {"_id": 1, "a": 1}
    assert (event.collection, event.id, event.at, event.patch) == ("orders", "int:1", AT.replace(tzinfo=None), None)
    assert not event.external


def test_an_update_carries_the_difference_of_its_images() -> None:
    same_on_both = {"long": "x" * 100}
    event = the(update(stamped(6, a=1, b=[1, 2], **same_on_both), stamped(7, a=Int64(1), b=[1, 2, 3], **same_on_both)))
    assert (event.op, event.base, event.version, event.op_id) == ("update", 6, 7, "op7")
    assert event.document is None
    assert event.patch is not None
    assert same(
        event.patch,
        [{"op": "replace", "path": "/a", "value": Int64(1)}, {"op": "add", "path": "/b/2", "value": 3}],
    )


def test_an_external_update_keeps_the_version_and_has_no_author() -> None:
    event = the(update(stamped(6, a=1), stamped(6, a=2)))
    assert (event.base, event.version, event.external, event.op_id, event.by) == (6, 6, True, None, None)


def test_a_document_without_a_stamp_is_version_0() -> None:
    event = the(update({"_id": 1, "a": 1}, {"_id": 1, "a": 2}))
    assert (event.base, event.version, event.external) == (0, 0, True)
    first = the(update({"_id": 1, "a": 1}, stamped(1, a=2)))
    assert (first.base, first.version, first.external) == (0, 1, False)


def test_the_stamp_itself_is_never_in_an_event() -> None:
    event = the(update(stamped(6), stamped(7)))
    assert (event.op, event.patch) == ("update", [])


def test_a_patch_larger_than_the_document_becomes_the_document() -> None:
    before = {"_id": 1} | {f"a rather long name {n}": n for n in range(50)}
    event = the(update(before, {"_id": 1, "x": 1}))
    assert (event.op, event.patch, event.document) == ("replace", None, {"_id": 1, "x": 1})
    one = the(update({"_id": 1, "a": "x"}, {"_id": 1, "a": "y" * 1000}))
    assert one.op == "update", "one operation is no worse than the document"


@pytest.mark.parametrize("name", ["a", "a.b", "a.b.c"])
def test_a_dotted_path_may_be_any_of_the_fields_that_it_could_mean(name: str) -> None:
    described = {"updatedFields": {"a.b.c": 2}, "removedFields": [], "truncatedArrays": []}
    before, after = {"_id": 1, "same": 1, name: 1}, {"_id": 1, "same": 1, name: 2}
    found = change("update", updateDescription=described, fullDocumentBeforeChange=before, fullDocument=after)
    assert the(convert(found)).patch == [{"op": "replace", "path": f"/{name}", "value": 2}]


@pytest.mark.parametrize(
    "described",
    [{"removedFields": ["a.b"]}, {"truncatedArrays": [{"field": "a.b", "newSize": 0}]}, {"updatedFields": {"a": 1}}],
)
def test_all_paths_of_an_update_are_compared(described: dict[str, Any]) -> None:
    before, after = {"_id": 1, "a": {"b": [1]}}, {"_id": 1, "a": {"b": []}}
    found = change("update", updateDescription=described, fullDocumentBeforeChange=before, fullDocument=after)
    assert the(convert(found)).patch == [{"op": "remove", "path": "/a/b/0"}]


def inserted(document: dict[str, Any]) -> Event:
    raw = change("insert", fullDocument=document)
    return the(convert(decode_change(raw), raw.raw))


def test_the_stamp_does_not_keep_a_document_from_being_plain() -> None:
    assert inserted(stamped(7, a="x", n=Int64(2**40))).plain
    assert not inserted(stamped(7, a=Int64(7))).plain
    assert not inserted(stamped(2**40, a=Int64(7))).plain, "this version is none of the short ones"
    assert not inserted({"_id": 1, "b": {"_sync": {"v": Int64(1)}}}).plain
    assert not the(convert(change("insert", fullDocument={"_id": 1}))).plain, "without the bytes nothing is known"


def test_a_plain_replacement_has_two_stamps() -> None:
    raw = change("replace", fullDocumentBeforeChange=stamped(6, a=1), fullDocument=stamped(7, a=2))
    assert the(convert(decode_change(raw), raw.raw)).plain
    raw = change("replace", fullDocumentBeforeChange=stamped(6, a=1), fullDocument={"_id": 1, "a": Int64(2)})
    assert not the(convert(decode_change(raw), raw.raw)).plain


def test_text_that_is_not_utf_8_is_kept_as_bytes_where_it_stands() -> None:
    broken = change("insert", fullDocument={"_id": 1, "text": "@@@@"}, other={"id": uuid.UUID(int=1)})
    raw = RawBSONDocument(bytes(broken.raw).replace(b"@@@@", b"@\xff@@"), RAW_CODEC)
    found = decode_change(raw)
    assert found["fullDocument"] == {"_id": 1, "text": Opaque(0x02, b"\5\0\0\0@\xff@@\0")}
    assert found["other"] == {"id": uuid.UUID(int=1)}


def test_a_replacement_carries_the_document() -> None:
    event = the(convert(change("replace", fullDocumentBeforeChange=stamped(6, a=1), fullDocument={"_id": 1, "b": 2})))
    assert (event.op, event.base, event.version, event.external) == ("replace", 6, 0, True)
    assert event.document == {"_id": 1, "b": 2}


def test_an_external_delete_keeps_the_version() -> None:
    event = the(convert(change("delete", fullDocumentBeforeChange=stamped(6, a=1))))
    assert (event.op, event.base, event.version, event.external) == ("delete", 6, 6, True)
    assert (event.document, event.patch) == (None, None)


def test_an_api_delete_is_recognized_by_the_mark_before_it() -> None:
    marked = stamped(7, a=1)
    marked["_sync"]["deleted"] = True
    assert update(stamped(6, a=1), marked) is None
    event = the(convert(change("delete", fullDocumentBeforeChange=marked)))
    assert (event.op, event.base, event.version, event.op_id, event.by) == ("delete", 6, 7, "op7", "ann")


def test_a_mark_never_hides_another_change() -> None:
    marked = stamped(7, a=2)
    marked["_sync"]["deleted"] = True
    event = the(update(stamped(6, a=1), marked))
    assert event.patch == [{"op": "replace", "path": "/a", "value": 2}]


def test_a_copied_stamp_does_not_count_as_an_api_write() -> None:
    restored = the(convert(change("insert", fullDocument=stamped(6, a=1))))
    assert (restored.base, restored.version, restored.external) == (0, 6, True)
    back = the(convert(change("replace", fullDocumentBeforeChange=stamped(6), fullDocument=stamped(3))))
    assert (back.base, back.version, back.external) == (6, 3, True)


@pytest.mark.parametrize("field", [5, "x", {"v": "7"}, {"v": 1.5}, None])
def test_a_foreign_value_of_the_stamp_is_ignored(field: Any) -> None:
    event = the(update({"_id": 1, "_sync": {"v": 1}}, {"_id": 1, "_sync": field, "a": 1}))
    assert (event.version, event.external) == (0, True)
    assert event.patch == [{"op": "add", "path": "/a", "value": 1}]


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (ObjectId("0123456789abcdef01234567"), "0123456789abcdef01234567"),
        ("a/b", "a/b"),
        (uuid.UUID(int=5), f"uuid:{uuid.UUID(int=5)}"),
        ({"a": 1}, 'ejson:{"a":1}'),
        (None, "ejson:null"),
        (math.inf, 'ejson:{"$numberDouble":"Infinity"}'),
    ],
)
def test_convert_formats_ids_of_every_type(key: Any, text: str) -> None:
    assert the(convert(change("insert", key=key, fullDocument={"_id": key}))).id == text


@pytest.mark.parametrize(
    ("kind", "images"),
    [
        ("insert", {}),
        ("insert", {"fullDocument": None}),
        ("update", {"fullDocument": {"_id": 1}}),
        ("update", {"fullDocumentBeforeChange": {"_id": 1}, "fullDocument": None}),
        ("replace", {"fullDocument": {"_id": 1}, "fullDocumentBeforeChange": None}),
        ("delete", {}),
    ],
)
def test_a_missing_image_raises(kind: str, images: dict[str, Any]) -> None:
    with pytest.raises(StateMissing, match=f"{kind} of orders/int:1"):
        convert(change(kind, **images))


def test_a_name_of_many_dots_is_compared_whole() -> None:
    """A path that could mean a field of each of its beginnings: half a million of up to a megabyte."""
    name = "." * 500_000
    before, after = {"_id": 1, name: 0, "b": 0}, {"_id": 1, name: 1, "b": 0}
    description = {"updatedFields": {name: 1}, "removedFields": [], "truncatedArrays": []}
    images: dict[str, Any] = {"fullDocumentBeforeChange": before, "fullDocument": after}
    event = the(convert(dict(change("update")) | images | {"updateDescription": description}))
    assert event.patch == [{"op": "replace", "path": f"/{name}", "value": 1}]


def traced(kind: str, **images: Any) -> str | None:
    """Return the context of a trace that the event of a change has."""
    parts = decode_change(change(kind, **images))
    encoded = encode_change(convert(parts), parts, traced=True)
    assert encoded is not None
    assert b"00-4b" not in encoded.encoded, "clients get no trace"
    in_helper, _ = convert_raw(bson.encode(parts), traced=True)
    assert in_helper == encoded
    untraced = encode_change(convert(parts), parts)
    assert untraced == encoded._replace(trace=None)
    return encoded.trace


def with_trace(version: int, trace: str, **fields: Any) -> dict[str, Any]:
    document = stamped(version, **fields)
    document["_sync"]["t"] = trace
    return document


def test_the_context_of_a_trace_is_that_of_the_write_itself() -> None:
    assert traced("insert", fullDocument=with_trace(1, "00-4b-1", a=1)) == "00-4b-1"
    before, after = with_trace(1, "00-4b-1", a=1), with_trace(2, "00-4b-2", a=2)
    assert traced("update", fullDocumentBeforeChange=before, fullDocument=after) == "00-4b-2"
    assert traced("replace", fullDocumentBeforeChange=before, fullDocument=after) == "00-4b-2"
    # The write through the API was not sampled.
    assert traced("update", fullDocumentBeforeChange=before, fullDocument=stamped(2, a=2)) is None
    # One from elsewhere has left the stamp of the write before.
    later = with_trace(2, "00-4b-2", a=3)
    assert traced("update", fullDocumentBeforeChange=after, fullDocument=later) is None
    assert traced("delete", fullDocumentBeforeChange=after) is None
    marked = with_trace(3, "00-4b-3", a=3)
    marked["_sync"]["deleted"] = True
    assert traced("delete", fullDocumentBeforeChange=marked) == "00-4b-3"
