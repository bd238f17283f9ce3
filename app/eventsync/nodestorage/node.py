"""A document as read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bson.raw_bson import RawBSONDocument

from eventsync.domain.entity_tag import digest_of, entity_tag
from eventsync.domain.stamp import unstamp
from eventsync.domain.values.extended_json import decode


@dataclass(frozen=True, slots=True)
class Node:
    """A document: its id as MongoDB has it, its version (0 without `_sync`), its fields with `_id`, without `_sync`.

    For a reader that only passes it on, `document` may be a `JsonText`; then `digest` is given, where it is wanted.
    """

    id: Any
    version: int
    document: Any
    digest: str = ""

    @property
    def etag(self) -> str:
        """The entity tag of this state."""
        return entity_tag(self.version, self.digest or digest_of(self.document))


def node_of(raw: RawBSONDocument) -> Node:
    """The stored document `raw`, decoded; each call gives a copy of its own."""
    stamp, document = unstamp(decode(bytes(raw.raw)))
    return Node(document["_id"], stamp.version, document)
