"""Changes of a transaction that came without their images. Pure.

Their states are read from the collection, which knows nothing of what was between the beginning and the end of a
transaction. So what a transaction did to such a document is told by its last change alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eventsync.domain.stamp import FIELD
from eventsync_workers.sequencing.converter import Decoded

_BEFORE, _AFTER = "fullDocumentBeforeChange", "fullDocument"

NEEDS = {"insert": (_AFTER,), "update": (_BEFORE, _AFTER), "replace": (_BEFORE, _AFTER), "delete": (_BEFORE,)}
"""The images without which a change of each kind can't be converted."""

STAMPED = "stampedBeforeChange"
"""In a delete without its image: the `_sync` that an API delete has left just before it, in the same transaction."""

Changed = tuple[Decoded, Any]
"""A change, and the BSON that it was decoded from."""


def lacks_images(change: Decoded) -> bool:
    """Whether a state that its conversion needs has to be read."""
    for name in NEEDS[change["operationType"]]:  # noqa: SIM110 - asked of each change, and a generator takes twice as long
        if change.get(name) is None:
            return True
    return False


def told_once(group: Sequence[Changed]) -> Sequence[Changed]:
    """The changes of a transaction to convert: of a document that lacks an image of any, the last one, without any."""
    if len(group) < 2 or not any(lacks_images(change) for change, _ in group):
        return group
    lacking = {_key(change) for change, _ in group if lacks_images(change)}
    last = {_key(change): index for index, (change, _) in enumerate(group)}
    stamps = {_key(change): stamp for change, _ in group if (stamp := _stamp(change)) is not None}
    told: list[Changed] = []
    for index, (change, raw) in enumerate(group):
        key = _key(change)
        if key not in lacking:
            told.append((change, raw))
        elif last[key] == index:
            bare = {name: value for name, value in change.items() if name not in {_BEFORE, _AFTER}}
            told.append((bare | ({STAMPED: stamps[key]} if key in stamps else {}), raw))
    return told


def _key(change: Decoded) -> tuple[str, str]:
    return change["ns"]["coll"], repr(change["documentKey"]["_id"])


def _stamp(change: Decoded) -> Any:
    """The stamp that an update has set as a whole."""
    return (change.get("updateDescription") or {}).get("updatedFields", {}).get(FIELD)
