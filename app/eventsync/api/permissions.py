"""Permissions: what the principal of a request may read and write, collection by collection.

A collection of which it may read nothing is not there: the answer is the same as for one that is not tracked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext

from starlette.requests import HTTPConnection

from eventsync.access.access import Access
from eventsync.access.audit import NOT_GRANTED
from eventsync.api.state import access_of, follow_access, services_of
from eventsync.domain.access.redaction import Redaction
from eventsync.domain.names import not_readable
from eventsync.errors import EventsyncError, Forbidden, NotTracked
from eventsync.nodestorage import Author, Guard, Visible
from eventsync.tracing.process import carried


class NotGranted(NotTracked):
    """A collection of which the principal may read nothing. Nothing but the log tells it from an untracked one."""

    reason = NOT_GRANTED


class Permissions:
    """The rights of the principal of one request, which follow the rules and revocations. Raises `Unauthenticated`."""

    def __init__(self, connection: HTTPConnection) -> None:
        self._connection = connection
        self._tracking = services_of(connection).sync.tracking

    @property
    def _access(self) -> Access:
        return follow_access(self._connection)

    @property
    def scope(self) -> str:
        """Prefix of the stored form of names that the principal chooses; empty while everything is allowed."""
        return self._access.scope

    def connection(self) -> AbstractContextManager[None]:
        """Hold a connection of the principal in the block. Raises `RateLimited`."""
        if self._access.is_open:
            return nullcontext()
        return services_of(self._connection).budgets.connection(self._access.principal.sub)

    def requests(self, weight: int) -> AbstractAsyncContextManager[None]:
        """Hold so many places among the principal's requests in the block. Raises `RateLimited`."""
        if self._access.is_open:
            return nullcontext()
        return services_of(self._connection).budgets.request(self._access.principal.sub, weight)

    def record(self, error: EventsyncError, request: str) -> None:
        """Record the refusal of one operation among others."""
        access = access_of(self._connection)
        if not access.is_open and isinstance(error, Forbidden | NotGranted):
            services_of(self._connection).record_refusal(error, access, request)

    def require(self, collection: str) -> None:
        """Raise `NotTracked` for a collection that is not tracked, or of which the principal may read nothing."""
        # Access first: a principal must not learn which collections are tracked besides its own.
        if not self._access.is_open and self._access.grant(collection) is None:
            raise NotGranted(not_readable(collection))
        try:
            self._tracking.require(collection)
        except NotTracked as error:
            # The reason and the remedy are for operators.
            raise error if self._access.is_operator else NotTracked(not_readable(collection)) from error

    def visible(self, collection: str) -> Visible | None:
        """Return what the principal may read of a collection; None for all of it. Raises as `require`."""
        self.require(collection)
        if self._access.is_open:
            return None
        grant, guard = self._access.grant(collection), self._access.guard(collection)
        if grant is None or guard is None:
            raise NotGranted(not_readable(collection))
        return Visible(guard, grant.filter, grant.redaction, grant.digest)

    def author(self, collections: Iterable[str], op_id: str | None = None) -> Author:
        """Return the principal as the author of an operation on these collections."""
        by = self._access.principal.sub
        guards = None if self._access.is_open else self._guards(collections)
        return Author.new(by, guards) if op_id is None else Author(by, op_id, guards, carried())

    def _guards(self, collections: Iterable[str]) -> Mapping[str, Guard]:
        # A transaction may change several collections, each by rules of its own.
        found = {name: self._access.guard(name) for name in collections}
        return {name: guard for name, guard in found.items() if guard is not None}


def require_visible_paths(redaction: Redaction | None, paths: Iterable[str], what: str) -> None:
    """Raise `Forbidden` if one of the paths of a filter or sort is hidden: its answer would tell the hidden values."""
    for path in paths:
        if redaction is not None and redaction.hides(path):
            raise Forbidden(f"{what}: {path} is hidden from you, or leads to something hidden", reason="hidden")
