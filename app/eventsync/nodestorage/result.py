"""The result of a write."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from eventsync.domain.entity_tag import digest_of, entity_tag
from eventsync.domain.ids import IdText


@dataclass(slots=True)
class WriteResult:
    """The document after the write (None after a delete), its version, and the RFC 6902 difference that was made.

    `patch` contains BSON values. It is empty if nothing changed, and after a create or a delete. For a large document,
    `document` and `patch` are `JsonText`. With `created`, the document did not exist before. A `replayed` result comes
    from an idempotency record: nothing was written this time, and it has neither document nor patch. `known_digest` is
    set where `document` is not there to compute it from.

    An author with guards gets what it may see of document and patch, and the digest of that. A `withheld` result has
    nothing of them: the author may not read the document after its write.
    """

    id: IdText
    version: int
    document: Any
    patch: Any
    created: bool = False
    replayed: bool = False
    known_digest: str = ""
    withheld: bool = False

    @property
    def digest(self) -> str:
        """The digest of the document (`eventsync.domain.entity_tag`), empty after a delete.

        It takes a sixth of the time of an imported document, so it is computed only where it is asked for.
        """
        if not self.known_digest and self.document is not None:
            self.known_digest = digest_of(self.document)
        return self.known_digest

    @property
    def etag(self) -> str | None:
        """The entity tag of the state after the write, or None if there is no document."""
        return entity_tag(self.version, digest) if (digest := self.digest) else None
