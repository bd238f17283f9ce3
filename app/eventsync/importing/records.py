"""The documents of a file of JSON, with their places: one a line (NDJSON), in an array, or one after another.

A file whose first line is a whole object is read by lines: a line that is not JSON spoils no other. Any other file is
split by its brackets.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

from eventsync.errors import Malformed

MAX_RECORD: Final = 64 * 1024 * 1024
"""Maximum number of bytes of one document's JSON."""

_READ: Final = 256 * 1024
_TOKEN: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|["{}\[\]]', re.DOTALL)
"""A whole string, a string that does not end, or a bracket."""

_BLANK: Final = b" \t\r\n" + codecs.BOM_UTF8
"""Bytes around a document: white space, and those of the mark with which some programs begin a file."""

_BETWEEN: Final = _BLANK + b","


@dataclass(slots=True)
class Place:
    """A place in a file: between two documents, `offset` bytes from the beginning, in line `line`."""

    offset: int = 0
    line: int = 1


@dataclass(slots=True)
class Record:
    """The JSON of a document, the place where it begins, and the place behind it."""

    raw: bytes
    begin: Place
    end: Place


def read_records(file: BinaryIO, start: Place) -> Iterator[Record]:
    """Yield the documents from `start` on, where a record ended. Raises `Malformed` for a file that can't be split.

    Only a file that is read from its beginning need not be seekable.
    """
    head = data = _head(file)
    if start.offset:
        file.seek(start.offset)
        data = b""
    if _is_by_lines(head):
        yield from _by_lines(file, data, start)
    else:
        yield from _by_brackets(file, data, start, is_array=head.lstrip(_BLANK).startswith(b"["))


def _is_by_lines(head: bytes) -> bool:
    """Return True if a file that begins with `head` has a document a line."""
    first = head.lstrip(_BLANK).partition(b"\n")[0].rstrip(_BLANK)
    return first.startswith(b"{") and (first.endswith(b"}") or b"\n" not in head)


def _head(file: BinaryIO) -> bytes:
    """Read the beginning of the file, up to the end of the first line that is not blank."""
    head = b""
    while b"\n" not in head.lstrip(_BLANK) and len(head) < MAX_RECORD and (data := file.read(_READ)):
        head += data
    return head


def _by_lines(file: BinaryIO, data: bytes, place: Place) -> Iterator[Record]:
    while True:
        lines = data.split(b"\n")
        data = lines.pop()
        for line in lines:
            end = Place(place.offset + len(line) + 1, place.line + 1)
            if raw := line.strip(_BLANK):
                yield Record(raw, place, end)
            place = end
        _check_size(len(data), place)
        if not (more := file.read(_READ)):
            break
        data += more
    if raw := data.strip(_BLANK):
        yield Record(raw, place, Place(place.offset + len(data), place.line))


class _Brackets:
    """Splits the elements of an array, or the objects that stand one after another.

    `place` is that of `data[taken]`: the beginning of a document, or the place behind the last one.
    """

    def __init__(self, data: bytes, place: Place, *, is_array: bool) -> None:
        self._data = data
        self.place = place
        self._taken = 0
        self._scanned = 0
        self._base = int(is_array)
        self._depth = self._base if place.offset else 0
        """Open brackets; those of a document are above `_base`."""
        self._has_ended = False

    def add(self, more: bytes) -> None:
        """Append what was read next, and drop what was taken."""
        self._data = self._data[self._taken :] + more
        self._scanned -= self._taken
        self._taken = 0
        _check_size(len(self._data), self.place)

    def whole(self) -> Iterator[Record]:
        """Yield the documents that have been read to their end."""
        for token in _TOKEN.finditer(self._data, self._scanned):
            if token[0] == b'"':
                return  # the end of this string has not been read
            self._scanned = token.end()
            if token[0] in {b"{", b"["}:
                self._open(token[0], token.start())
            elif token[0] in {b"}", b"]"}:
                self._depth -= 1
                if self._depth == self._base:
                    begin, raw = self.place, self._take(self._scanned)
                    yield Record(raw, begin, self.place)
                elif self._depth < self._base:
                    self._close(token.start())

    def _open(self, bracket: bytes, index: int) -> None:
        self._depth += 1
        if self._depth > self._base + 1:
            return
        self._pass(index)
        if self._depth == self._base:
            if bracket != b"[" or self._has_ended:
                raise self._misplaced(bracket)
            self._take(index + 1)

    def _close(self, index: int) -> None:
        """End the array."""
        self._pass(index)
        if self._depth < 0:
            raise self._misplaced(self._data[index : index + 1])
        self._take(index + 1)
        self._has_ended = True

    def finish(self) -> None:
        """Check the end of the file. Raises `Malformed`."""
        if self._depth or (self._base and not self._has_ended):
            raise Malformed(f"line {self.place.line}: the file ends in the middle of this document, or of its array")
        self._pass(len(self._data))

    def _pass(self, index: int) -> None:
        """Take what stands between two documents."""
        between = self._data[self._taken : index]
        rest = between.lstrip(_BETWEEN)
        self._take(index - len(rest))
        if rest:
            raise self._misplaced(rest)

    def _take(self, index: int) -> bytes:
        taken = self._data[self._taken : index]
        self.place = Place(self.place.offset + len(taken), self.place.line + taken.count(b"\n"))
        self._taken = index
        return taken

    def _misplaced(self, text: bytes) -> Malformed:
        shown = text[:32].decode(errors="replace")
        return Malformed(f"line {self.place.line}: {shown!r} does not belong between two documents")


def _by_brackets(file: BinaryIO, data: bytes, place: Place, *, is_array: bool) -> Iterator[Record]:
    brackets = _Brackets(data, place, is_array=is_array)
    while True:
        yield from brackets.whole()
        if not (more := file.read(_READ)):
            break
        brackets.add(more)
    brackets.finish()


def _check_size(size: int, place: Place) -> None:
    if size > MAX_RECORD:
        raise Malformed(f"line {place.line}: a document has more than {MAX_RECORD} bytes, or does not end")
