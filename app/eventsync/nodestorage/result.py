"""What a write did."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from eventsync.domain.entity_tag import entity_tag
from eventsync.domain.ids import IdText


@dataclass(frozen=True, slots=True)
class WriteResult:
    """The document after the write (None after a delete), its version, and the RFC 6902 difference to the one before.

    `patch` holds BSON values and is empty where nothing changed, and after a create or delete. Of a large document both
    are `JsonText`. `created`: the document was not there before. `replayed`: answered from an idempotency record,
    nothing was written this time; then there is neither document nor patch.
    `digest` is the document's (`eventsync.domain.entity_tag`), empty after a delete.
    """

    id: IdText
    version: int
    document: Any
    patch: Any
    created: bool = False
    replayed: bool = False
    digest: str = ""

    @property
    def etag(self) -> str | None:
        """The entity tag of the state that the write left, None where there is no document."""
        return entity_tag(self.version, self.digest) if self.digest else None
