"""Splitting a file into its documents, at any place."""

from __future__ import annotations

import codecs
import io
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventsync.errors import Malformed
from eventsync.importing import Place, read_records
from eventsync.importing.records import Record

DOCUMENTS: list[dict[str, Any]] = [
    {"_id": 1, "text": 'a "quoted" \\ back {slash} ]['},
    {},
    {"nested": {"list": [1, [2, {"three": "}"}]], "é": "ü\n"}},
    {"_id": {"$oid": "59a47286cfa9a3a73e51e72c"}, "end": "\\"},
]

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
documents = st.lists(st.dictionaries(st.text(), values, max_size=4), max_size=8)


class Chopped(io.BytesIO):
    """A file that gives a few bytes at a time."""

    def read(self, size: int | None = -1, /) -> bytes:  # noqa: ARG002 - as of any file
        return super().read(7)


def written(items: list[dict[str, Any]], form: str) -> bytes:
    """The documents as lines (with blank ones), as an array in one of two styles, or pretty-printed."""
    if form == "lines":
        return "".join(json.dumps(item) + "\n\r\n" for item in items).encode()
    if form == "array":
        return json.dumps(items, ensure_ascii=False).encode()
    if form == "export":
        return b"[" + b",\n".join(json.dumps(item).encode() for item in items) + b"]\n"
    return "\n".join(json.dumps(item, indent=2) for item in items).encode()


def read(raw: bytes, start: Place = Place(), *, kind: type[io.BytesIO] = io.BytesIO) -> list[Record]:  # noqa: B008
    return list(read_records(kind(raw), start))


FORMS = ["lines", "array", "export", "pretty"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", [io.BytesIO, Chopped])
def test_documents_of_each_form_are_found(form: str, kind: type[io.BytesIO]) -> None:
    raw = written(DOCUMENTS, form)
    found = read(raw, kind=kind)
    assert [json.loads(record.raw) for record in found] == DOCUMENTS
    for record in found:
        assert raw[record.begin.offset : record.end.offset].strip() == record.raw
        assert record.begin.line == raw[: record.begin.offset].count(b"\n") + 1


@pytest.mark.parametrize("form", FORMS)
def test_file_may_begin_with_a_byte_order_mark(form: str) -> None:
    raw = codecs.BOM_UTF8 + written(DOCUMENTS, form)
    found = read(raw)
    assert [json.loads(record.raw) for record in found] == DOCUMENTS
    assert read(raw, found[0].end) == found[1:]


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(documents, st.sampled_from(FORMS))
def test_reading_continues_behind_each_document(items: list[dict[str, Any]], form: str) -> None:
    if form == "pretty":
        items = [{"first": 1}, *items]  # an empty one would be a whole line
    raw = written(items, form)
    found = read(raw)
    assert [json.loads(record.raw) for record in found] == items
    for index, record in enumerate(found):
        assert read(raw, record.end) == found[index + 1 :]


def test_line_that_is_no_json_spoils_no_other() -> None:
    found = read(b'{"a": 1}\n{"b": \n{"c": "}"}')
    assert [(record.raw, record.begin.line) for record in found] == [
        (b'{"a": 1}', 1),
        (b'{"b":', 2),
        (b'{"c": "}"}', 3),
    ]


@pytest.mark.parametrize(
    ("raw", "line"),
    [
        (b'[{"a": 1},\n{"b": ', 2),
        (b'[{"a": 1}', 1),
        (b'[{"a": 1}]\n{"b": 2}', 2),
        (b'[{"a": 1}]]', 1),
        (b'[1, {"a": 1}]', 1),
        (b'{\n"a": 1\n}\nnull\n{}', 4),
        (b"{\n}}", 2),
        (b'[\n{"a": "unfinished]', 2),
        (b"name,age\n1,2", 1),
    ],
)
@pytest.mark.parametrize("kind", [io.BytesIO, Chopped])
def test_file_that_cannot_be_split_is_refused_by_line(raw: bytes, line: int, kind: type[io.BytesIO]) -> None:
    with pytest.raises(Malformed, match=f"line {line}: "):
        read(raw, kind=kind)


@pytest.mark.parametrize("raw", [b"", b"\n \n", b"[]", b"[\n]\n"])
def test_file_may_be_empty(raw: bytes) -> None:
    assert read(raw) == []
