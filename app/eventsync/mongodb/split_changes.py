"""Reassembly of change events that MongoDB split because they exceed 16 MiB with their images. Pure.

Source: https://www.mongodb.com/docs/manual/reference/operator/aggregation/changeStreamSplitLargeEvent/
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import bson
from bson.raw_bson import RawBSONDocument

from eventsync.domain.values.extended_json import RAW_CODEC, may_hold
from eventsync.errors import EventsyncError

_SPLIT_EVENT: Final = b"\x03splitEvent\0"
"""The first bytes of the BSON field that marks a fragment."""


class FragmentMissing(EventsyncError):
    """A fragment does not continue the change before it: the stream was opened in the middle of a change."""

    code = "fragment_missing"


class Fragments:
    """Holds the fragments of one change until it is complete: at most three or four, of 16 MiB each."""

    def __init__(self) -> None:
        self._held: list[RawBSONDocument] = []

    @property
    def pending(self) -> bool:
        """True while a change is incomplete. A resume token taken now would point into the middle of it."""
        return bool(self._held)

    def joined(self, changes: Iterable[RawBSONDocument]) -> list[RawBSONDocument]:
        """Return the changes that are complete now, in order. Raises `FragmentMissing`."""
        return [whole for change in changes if (whole := self._joined(change)) is not None]

    def _joined(self, change: RawBSONDocument) -> RawBSONDocument | None:
        if not self._held and _is_whole(change):
            return change
        # A whole change is a change of one fragment. Behind unfinished ones it is a fault as well.
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
    """Return True for a change that was not split, as nearly all are.

    The bytes are searched, because parsing a raw change takes a seventh of the time of sequencing it.
    """
    return isinstance(change, RawBSONDocument) and not may_hold(change, _SPLIT_EVENT)


def _merged(fragments: Iterable[RawBSONDocument]) -> RawBSONDocument:
    """Merge fragments into one change event, with the resume token of the last fragment.

    Only that token resumes after the change. The BSON may exceed 16 MiB, because it is never sent to MongoDB.
    """
    fields: dict[str, Any] = {}
    for fragment in fragments:
        fields |= fragment
    del fields["splitEvent"]
    return RawBSONDocument(bson.encode(fields, codec_options=RAW_CODEC), RAW_CODEC)
