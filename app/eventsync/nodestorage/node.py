"""A document as it is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bson.raw_bson import RawBSONDocument

from eventsync.domain.bson_scan.ambiguous import checked
from eventsync.domain.entity_tag import digest_of, entity_tag
from eventsync.domain.stamp import unstamp
from eventsync.domain.values.extended_json import decode


@dataclass(frozen=True, slots=True)
class Node:
    """A document: its id as in MongoDB, its version (0 without `_sync`), and its fields with `_id`, without `_sync`.

    `document` may be a `JsonText` for a reader that only forwards it. `digest` is then set if it was requested.
    """

    id: Any
    version: int
    document: Any
    digest: str = ""

    @property
    def etag(self) -> str:
        """The entity tag of this state."""
        return entity_tag(self.version, self.digest or digest_of(self.document))


def node_of(raw: RawBSONDocument, *, tell: bool = False) -> Node:
    """Decode the stored document `raw`. Each call returns a new copy.

    With `tell`, a document with a field name twice is an `AmbiguousDocument`.
    """
    data = bytes(raw.raw)
    found = decode(data)
    stamp, document = unstamp(checked(found, data) if tell else found)
    return Node(document["_id"], stamp.version, document)
