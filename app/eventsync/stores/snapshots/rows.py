"""The rows of a stored snapshot: lines of JSON that read back BSON-exact."""

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
"""A document of a snapshot: its id, its version, and what it is, without `_sync`."""

StoredLine = tuple[int, IdText, bytes]
"""The same as it is stored: the number of its chunk, its id, and its line of JSON."""

_HEAD = re.compile(rb'\{"id":"(?:[^"\\]|\\.)*","version":(\d+),')
"""How a row begins, as `_line` writes it."""


class Line(NamedTuple):
    """A row that is encoded already."""

    id: IdText
    text: bytes


def line_of(raw: bytes) -> Line:
    """Return the row of a stored document: all the work on a large one."""
    return _line(*unversioned(decode(raw)))


async def cut(documents: AsyncIterable[tuple[int, Document] | Line], chunk_bytes: int) -> AsyncGenerator[Chunk]:
    """(version, document) in id order, as chunks of about `chunk_bytes` before compression. Holds one at a time."""
    ids: list[IdText] = []
    lines: list[bytes] = []
    size = 0
    async for found in documents:
        text, line = found if isinstance(found, Line) else _line(*found)
        ids.append(text)
        lines.append(line)
        size += len(line) + 1
        if size >= chunk_bytes:
            yield Chunk(ids, lines)
            ids, lines, size = [], [], 0
    if ids:
        yield Chunk(ids, lines)


def read_row(snapshot: str, number: int, text: IdText, line: bytes) -> Row:
    """The row of document `text` in chunk `number`. Raises `Damaged`, which names both."""
    try:
        tree = orjson.loads(line)
        document: Document = from_tree_with_hints(tree["doc"], tree.get("marks", ()))
        found = tree["id"], int(tree["version"]), document
    except (Malformed, LookupError, TypeError, ValueError) as error:
        raise Damaged(f"chunk {number} of snapshot {snapshot}: the row of {text} can't be read: {error}") from error
    if found[0] != text:
        raise Damaged(f"chunk {number} of snapshot {snapshot} has the row of {found[0]} for {text}")
    return found


def version_of(snapshot: str, line: StoredLine) -> int:
    """Return the version in a row, of which the rest is not read. Raises as `read_row`."""
    match = _HEAD.match(line[2])
    return int(match[1]) if match else read_row(snapshot, *line)[1]


def encoded_row(snapshot: str, number: int, text: IdText, line: bytes) -> EncodedState:
    """Return the state in a row. Raises as `read_row`."""
    return encoded(read_row(snapshot, number, text, line)[1:])


def _line(version: int, document: Document) -> Line:
    text, type_hints = format_id(document["_id"]), type_hints_of(document)
    row = {"id": text, "version": version, "doc": document}
    return Line(text, to_json(row | {"marks": type_hints} if type_hints else row))
