"""The write that an import makes of a document, in each mode."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import orjson
from bson.objectid import ObjectId

from eventsync.domain.bson_scan.opaque import encode
from eventsync.domain.entity_tag import digest_of, entity_tag
from eventsync.domain.ids import format_id
from eventsync.domain.patches.json_pointer import escape
from eventsync.domain.values.extended_json import decode, from_tree, parse_json
from eventsync.errors import Malformed
from eventsync.importing.records import Record


class Mode(StrEnum):
    """The treatment of a document whose `_id` exists already. One without `_id` is always inserted."""

    INSERT = "insert"
    UPSERT = "upsert"
    MERGE = "merge"
    DELETE = "delete"


@dataclass(slots=True)
class Item:
    """A write: an operation of `documents:batch`, whose `content` is the JSON of its document or patch.

    `key` tells apart the documents that are written. With `if_absent`, the write is refused if the document exists.
    """

    record: Record
    key: bytes
    method: str
    id: str | None = None
    content: bytes | None = None
    if_absent: bool = False

    def encoded(self) -> bytes:
        """Return the operation as a line."""
        line: dict[str, Any] = {"method": self.method}
        if self.id is not None:
            line["id"] = self.id
        if self.if_absent:
            line["if_none_match"] = "*"
        if self.content is not None:
            line["patch" if self.method == "PATCH" else "doc"] = orjson.Fragment(self.content)
        return orjson.dumps(line)


class ItemMaker:
    """Makes the writes of one import. `seed` and a record's place give the id of a document that has none.

    So the same document gets the same id when an interrupted import is resumed.
    """

    def __init__(self, mode: Mode, seed: bytes) -> None:
        self._mode = mode
        self._seed = seed

    def make(self, record: Record) -> Item:
        """Return the write of a document. Raises `Malformed`."""
        raw = _in_one_line(record.raw)
        tree = _parsed(raw)
        if "_id" in tree:
            return self._of_known(record, raw, tree)
        if self._mode is Mode.DELETE:
            raise Malformed("a document to delete is named by its _id")
        assigned = self._assigned(record.begin.offset)
        given = b'{"_id":{"$oid":"%b"}' % str(assigned).encode()
        rest = raw[1:].lstrip()
        content = given + (rest if rest.startswith(b"}") else b"," + rest)
        return Item(record, assigned.binary, "POST", content=content)

    def _of_known(self, record: Record, raw: bytes, tree: dict[str, Any]) -> Item:
        id_text = format_id(from_tree(tree["_id"]))
        key = id_text.encode()
        if self._mode is Mode.INSERT:
            return Item(record, key, "POST", content=raw)
        if self._mode is Mode.UPSERT:
            return Item(record, key, "PUT", id_text, raw)
        if self._mode is Mode.DELETE:
            return Item(record, key, "DELETE", id_text)
        strict = parse_json(raw)
        patch = [{"op": "add", "path": f"/{escape(name)}", "value": strict[name]} for name in strict if name != "_id"]
        return Item(record, key, "PATCH", id_text, orjson.dumps(patch))

    def _assigned(self, offset: int) -> ObjectId:
        number = (int.from_bytes(self._seed[4:]) + offset) % 2**64
        return ObjectId(self._seed[:4] + number.to_bytes(8))


def if_absent(item: Item) -> Item:
    """Return an insert that is refused with the entity tag of the document that exists, and so can be repeated."""
    content = _in_one_line(item.record.raw) if item.method == "PATCH" else item.content
    try:
        id_text = item.id or format_id(from_tree(orjson.loads(content or b"{}")["_id"]))
    except Malformed:
        return item  # it is refused as it is
    return replace(item, method="PUT", id=id_text, content=content, if_absent=True)


def tag_of(item: Item) -> str:
    """Return the entity tag of the document that an insert makes."""
    document = decode(encode(from_tree(parse_json(item.content or b"{}"))))
    return entity_tag(1, digest_of(document))


def _in_one_line(raw: bytes) -> bytes:
    # JSON has line ends only where blanks may stand.
    return raw.replace(b"\n", b" ").replace(b"\r", b" ") if b"\n" in raw else raw


def _parsed(raw: bytes) -> dict[str, Any]:
    try:
        tree = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise Malformed(f"this is not valid JSON: {error}") from error
    if not isinstance(tree, dict):
        raise Malformed("a document is a JSON object")
    return tree
