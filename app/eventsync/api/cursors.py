"""The end of a page of documents, as `next` gives it and `after` brings it back.

It is the id of the page's last document. Where no text names that one exactly enough to go on behind it, it is an
earlier id and the number of documents behind that: `ejson:[2,"abc"]`, which no id can be.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import orjson

from eventsync.domain.ids import MAX_READ_BYTES, format_id, parse_id, pointer_of
from eventsync.domain.values.extended_json import parse_json
from eventsync.errors import Malformed

_MOST_SKIPPED = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place behind the id `text` (None: before all ids) and behind `skip` documents more."""

    text: str | None = None
    skip: int = 0

    @property
    def after(self) -> Any | None:
        """Return the id, None before all. Raises `Malformed`."""
        return None if self.text is None else parse_id(self.text)

    def __str__(self) -> str:
        if self.text is not None and not self.skip:
            return self.text
        return "ejson:" + orjson.dumps([self.skip, self.text]).decode()

    @classmethod
    def parse(cls, text: str | None) -> Cursor:
        """Read the value of `after`. Raises `Malformed`."""
        if text is None or not text.startswith("ejson:["):
            return cls(text)
        match parse_json(text.removeprefix("ejson:").encode()):
            case [int(skip), None | str() as base] if 0 <= skip <= _MOST_SKIPPED and not isinstance(skip, bool):
                return cls(base, skip)
        raise Malformed("after takes what `next` gave, or an id")

    def moved(self, ids: Iterable[Any]) -> Cursor:
        """Return the place behind the documents with these ids, which come next."""
        text, skip = self.text, self.skip
        for value in ids:
            text, skip = (format_id(value), 0) if _is_exact(value) else (text, skip + 1)
        return Cursor(text, skip)


def _is_exact(value: Any) -> bool:
    """Tell whether the text of an id leads back to its place in the order."""
    # None would be before all. A reference may be a DBPointer, which stands somewhere else.
    return value is not None and pointer_of(value) is None and len(format_id(value).encode()) <= MAX_READ_BYTES
