"""The changes of one document in a transaction: collapses those without their images, and finds the next one. Pure.

Missing images are read from the collection, which only has the documents before the transaction and after it. So all
changes of such a document are replaced by the last of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eventsync.domain.stamp import FIELD
from eventsync_workers.sequencing.converter import AFTER, BEFORE, STAMPED, DecodedChange

NEEDS = {"insert": (AFTER,), "update": (BEFORE, AFTER), "replace": (BEFORE, AFTER), "delete": (BEFORE,)}
"""The images without which a change of each kind can't be converted."""

ChangeAndRaw = tuple[DecodedChange, Any]
"""A change, and the BSON that it was decoded from."""


def lacks_images(change: DecodedChange) -> bool:
    """Return True if an image that the conversion needs has to be read."""
    for name in NEEDS[change["operationType"]]:  # noqa: SIM110 - asked of each change, and a generator takes twice as long
        if change.get(name) is None:
            return True
    return False


def collapse_transaction(changes: Sequence[ChangeAndRaw]) -> Sequence[ChangeAndRaw]:
    """Return the changes to convert: of a document that lacks any image, only the last change, without its images."""
    # By far the most common case, in which each change is exact by itself.
    if len(changes) < 2 or not any(lacks_images(change) for change, _ in changes):
        return changes
    lacking = {_key(change) for change, _ in changes if lacks_images(change)}
    last = {_key(change): index for index, (change, _) in enumerate(changes)}
    stamps = {_key(change): stamp for change, _ in changes if (stamp := _stamp(change)) is not None}
    collapsed: list[ChangeAndRaw] = []
    for index, (change, raw) in enumerate(changes):
        key = _key(change)
        if key not in lacking:
            collapsed.append((change, raw))
        elif last[key] == index:
            bare = {name: value for name, value in change.items() if name not in {BEFORE, AFTER}}
            collapsed.append((bare | ({STAMPED: stamps[key]} if key in stamps else {}), raw))
    return collapsed


class NextChanges:
    """Finds the next change of the same document in a transaction: it has the image of the document between the two."""

    def __init__(self, changes: Sequence[ChangeAndRaw]) -> None:
        self._changes = changes
        self._next: dict[int, int] | None = None
        """The index of the next change by that of each change; made at the first question, which is rare."""

    def after(self, index: int) -> ChangeAndRaw | None:
        """Return the next change of the document that the change at `index` belongs to; None if it is the last."""
        if self._next is None:
            self._next, found = {}, dict[tuple[str, str], int]()
            for place in range(len(self._changes) - 1, -1, -1):
                key = _key(self._changes[place][0])
                if key in found:
                    self._next[place] = found[key]
                found[key] = place
        place = self._next.get(index, -1)
        return None if place < 0 else self._changes[place]


def _key(change: DecodedChange) -> tuple[str, str]:
    # As text: an id may be a document, which can't be a key.
    return change["ns"]["coll"], repr(change["documentKey"]["_id"])


def _stamp(change: DecodedChange) -> Any:
    """Return the stamp that an update has set as a whole, or None."""
    return (change.get("updateDescription") or {}).get("updatedFields", {}).get(FIELD)
