"""Changes that MongoDB had to split, because with their images they are over 16 MiB, put together again. Pure.

Source: https://www.mongodb.com/docs/manual/reference/operator/aggregation/changeStreamSplitLargeEvent/
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import bson
from bson.raw_bson import RawBSONDocument

from eventsync.domain.values.extended_json import RAW_CODEC, may_hold
from eventsync.errors import EventsyncError

_MARK: Final = b"\x03splitEvent\0"
"""How the field begins in BSON that tells a fragment."""


class FragmentMissing(EventsyncError):
    """A fragment came that does not continue the change before it: the stream was opened in the middle of one."""

    code = "fragment_missing"


class Fragments:
    """Holds the fragments of one change until it is whole. At most three or four, of 16 MiB each."""

    def __init__(self) -> None:
        self._held: list[RawBSONDocument] = []

    @property
    def pending(self) -> bool:
        """Whether a change is read in part: a token that was got now would point into the middle of it."""
        return bool(self._held)

    def joined(self, changes: Iterable[RawBSONDocument]) -> list[RawBSONDocument]:
        """The changes that are whole now, in order. Raises `FragmentMissing`."""
        return [whole for change in changes if (whole := self._joined(change)) is not None]

    def _joined(self, change: RawBSONDocument) -> RawBSONDocument | None:
        if not self._held and _is_whole(change):
            return change
        part = change.get("splitEvent") or {"fragment": 1, "of": 1}
        if part["fragment"] != len(self._held) + 1:
            raise FragmentMissing(f"fragment {part['fragment']} of a change came after {len(self._held)} of it")
        if part["of"] == 1:
            return change
        self._held.append(change)
        if part["fragment"] < part["of"]:
            return None
        fragments, self._held = self._held, []
        return _merged(fragments)


def _is_whole(change: Mapping[str, Any]) -> bool:
    """Nearly all are. Told from the bytes: to take a raw change's fields apart costs a seventh of sequencing it."""
    return isinstance(change, RawBSONDocument) and not may_hold(change, _MARK)


def _merged(fragments: Iterable[RawBSONDocument]) -> RawBSONDocument:
    """One change of the same form as one that was never split, with the last fragment's resume token.

    (Only that one resumes behind the change. BSON as such may be larger than what MongoDB takes.)
    """
    fields: dict[str, Any] = {}
    for fragment in fragments:
        fields |= fragment
    del fields["splitEvent"]
    return RawBSONDocument(bson.encode(fields, codec_options=RAW_CODEC), RAW_CODEC)
