"""The rows of a stored snapshot: lines of JSON that decode to the exact BSON values."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterable
from typing import NamedTuple

import orjson

from eventsync.domain.encoded_state import EncodedState, encoded
from eventsync.domain.ids import IdText, format_id
from eventsync.domain.replay import Damaged
from eventsync.domain.stamp import unversioned
from eventsync.domain.values.extended_json import Document, decode, to_json
from eventsync.domain.values.type_hints import from_tree_with_hints, type_hints_of
from eventsync.errors import Malformed
from eventsync.stores.snapshots.chunks import Chunk

Row = tuple[IdText, int, Document]
"""A document of a snapshot: its id, its version, and its fields without `_sync`."""

StoredLine = tuple[int, IdText, bytes]
"""A stored row: the number of its chunk, its id, and its line of JSON."""

_HEAD = re.compile(rb'\{"id":"(?:[^"\\]|\\.)*","version":(\d+),')
"""The start of a row, as `_line` writes it."""


class EncodedRow(NamedTuple):
    """An encoded row."""

    id: IdText
    text: bytes


def line_of(raw: bytes) -> EncodedRow:
    """Return the encoded row of a stored document."""
    return _line(*unversioned(decode(raw)))


async def cut(documents: AsyncIterable[tuple[int, Document] | EncodedRow], chunk_bytes: int) -> AsyncGenerator[Chunk]:
    """Cut (version, document) in id order into chunks of about `chunk_bytes` before compression. Holds one at a
    time.
    """
    ids: list[IdText] = []
    lines: list[bytes] = []
    size = 0
    async for document in documents:
        text, line = document if isinstance(document, EncodedRow) else _line(*document)
        ids.append(text)
        lines.append(line)
        size += len(line) + 1
        if size >= chunk_bytes:
            yield Chunk(ids, lines)
            ids, lines, size = [], [], 0
    if ids:
        yield Chunk(ids, lines)


def read_row(snapshot: str, number: int, text: IdText, line: bytes) -> Row:
    """Decode the row of document `text` in chunk `number`. Raises `Damaged`, which names both."""
    try:
        tree = orjson.loads(line)
        document: Document = from_tree_with_hints(tree["doc"], tree.get("marks", ()))
        row = tree["id"], int(tree["version"]), document
    except (Malformed, LookupError, TypeError, ValueError) as error:
        raise Damaged(f"chunk {number} of snapshot {snapshot}: the row of {text} can't be read: {error}") from error
    if row[0] != text:
        raise Damaged(f"chunk {number} of snapshot {snapshot} has the row of {row[0]} for {text}")
    return row


def version_of(snapshot: str, line: StoredLine) -> int:
    """Return the version in a row without decoding the rest. Raises as `read_row`."""
    match = _HEAD.match(line[2])
    return int(match[1]) if match else read_row(snapshot, *line)[1]


def encoded_row(snapshot: str, number: int, text: IdText, line: bytes) -> EncodedState:
    """Return the state in a row. Raises as `read_row`."""
    return encoded(read_row(snapshot, number, text, line)[1:])


def _line(version: int, document: Document) -> EncodedRow:
    text, type_hints = format_id(document["_id"]), type_hints_of(document)
    row = {"id": text, "version": version, "doc": document}
    return EncodedRow(text, to_json(row | {"marks": type_hints} if type_hints else row))
