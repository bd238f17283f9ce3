"""The author of a write, and what rules let it see and change."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from eventsync.errors import Forbidden
from eventsync.tracing.process import carried


class Guard(Protocol):
    """One principal's rights in one collection. Picklable: a helper process may decide a write.

    Documents have `_id` and no stamp. All methods but the last three raise `Forbidden`.
    """

    def create(self, after: dict[str, Any]) -> None:
        """Check a new document."""

    def edit(self, before: dict[str, Any], edit: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
        """Apply `edit` to what the principal sees of `before`, which it sees; return the whole document afterwards."""

    def delete(self, before: dict[str, Any]) -> None:
        """Check the deletion of a document."""

    def shown(self, document: dict[str, Any]) -> dict[str, Any] | None:
        """Return what the principal may see of a document; None if it may not read it."""

    def redacted(self, patch: Sequence[Any]) -> list[Any]:
        """Return what the principal may see of a patch of a document that it may read."""

    def hides(self, path: str) -> bool:
        """Return True if a field, or a part of it, is hidden."""


@dataclass(frozen=True, slots=True)
class Author:
    """The principal `by`, and the id of the operation, which the stored document and its event carry.

    `guards` has a guard for each collection that the principal may use. Without it, as in a host's own code, everything
    is allowed. `trace` is the W3C `traceparent` of the request, if it is traced: the stored document and the row of its
    event carry it, and nothing that clients get.
    """

    by: str
    op_id: str
    guards: Mapping[str, Guard] | None = None
    trace: str | None = None

    @classmethod
    def new(cls, by: str, guards: Mapping[str, Guard] | None = None) -> Author:
        """Return the author of a new operation of `by`."""
        return cls(by, os.urandom(16).hex(), guards, carried())

    def guard(self, collection: str) -> Guard | None:
        """Return the guard of a collection; None if everything is allowed. Raises `Forbidden`."""
        if self.guards is None:
            return None
        if (guard := self.guards.get(collection)) is None:
            raise Forbidden(f"nothing may be written in {collection}")
        return guard

    @property
    def hides(self) -> Callable[[str], bool] | None:
        """Return a function that tells if a field is hidden from the author; None if nothing is."""
        if self.guards is None:
            return None
        guards = tuple(self.guards.values())
        return lambda path: any(guard.hides(path) for guard in guards)

    def within(self, collection: str) -> Author:
        """Return the same author with the guard of one collection only: less to send to a helper process."""
        if self.guards is None or len(self.guards) <= 1:
            return self
        guards = {name: guard for name, guard in self.guards.items() if name == collection}
        return Author(self.by, self.op_id, guards, self.trace)
