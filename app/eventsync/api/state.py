"""The services of all handlers, created by the lifespan of `eventsync.application`, carried in the ASGI state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from starlette.requests import HTTPConnection
from starlette.types import Scope

from eventsync.access.access import Access
from eventsync.access.control import AccessControl
from eventsync.concurrency.admission import DelayAdmission
from eventsync.concurrency.budgets import Budgets
from eventsync.concurrency.held_bytes import HeldBytes
from eventsync.concurrency.offload import Offload
from eventsync.errors import EventsyncError, Unavailable
from eventsync.logging import CONTEXT
from eventsync.metrics.figures import Figures
from eventsync.metrics.process import LoopLag
from eventsync.metrics.shared import SharedFigures
from eventsync.nodestorage import NodeStorage
from eventsync.server.limits import ConnectionLimits
from eventsync.server.observing import RequestFigures
from eventsync.settings import Settings
from eventsync.stores.archive.archive import Archive
from eventsync.stores.stores import Stores
from eventsync.sync.catch_up.time_travel import TimeTravelReads
from eventsync.sync.operations import CachedOverview
from eventsync.sync.reports import Reports
from eventsync.sync.service import SyncService


@dataclass(slots=True)
class Monitoring:
    """Counts of a server process itself, beside the figures of its services."""

    requests: RequestFigures = field(default_factory=RequestFigures)
    lag: LoopLag = field(default_factory=LoopLag)
    limits: ConnectionLimits | None = None
    """Those of our own server; None below another application."""
    slow: tuple[float, Figures] | None = None
    """Figures that take long to collect, and the monotonic time of them."""
    shared: SharedFigures | None = None
    """The figures of all server processes on the port, if there are several."""


@dataclass(frozen=True, slots=True)
class Services:
    """The collaborators of the handlers."""

    settings: Settings
    storage: NodeStorage
    sync: SyncService
    time_travel: TimeTravelReads
    archive: Archive
    overview: CachedOverview
    offload: Offload
    held: HeldBytes
    writes: DelayAdmission
    """Admits the writes of documents. Each goes through it."""
    access: AccessControl
    budgets: Budgets
    reports: Reports
    stores: Stores
    """For operators' endpoints, which read what no client is served."""
    monitoring: Monitoring

    def record_refusal(self, error: EventsyncError, access: Access | None, request: str) -> None:
        """Count and log that a principal was refused something, or that nobody was authenticated."""
        # What MongoDB refuses to this server is no refusal of a principal.
        if not isinstance(error, Unavailable):
            self.access.refusals.record(error, None if access is None else access.principal, request)


def services_of(connection: HTTPConnection) -> Services:
    """Return the services that the lifespan has put into `scope["state"]`."""
    services = connection.scope["state"]["services"]
    if not isinstance(services, Services):
        raise TypeError("the application runs without its lifespan")
    return services


ACCESS: Final = "eventsync.access"
"""The key of the ASGI scope under which a request's access stands."""


_FOLLOWED: Final = "eventsync.followed"
"""The key of the number of changes of rules and revocations that the access follows."""

_REQUIRE: Final = "eventsync.require"
"""The key of the check that an access has to pass."""


def begin_access(scope: Scope, access: Access, require: Callable[[Access], None] | None = None) -> None:
    """Note what the principal of a request may do, and name it in the lines that are logged for the request.

    `require` raises what refuses the request by its access, also by a later one.
    """
    scope[ACCESS], scope[_REQUIRE] = access, require
    scope[_FOLLOWED] = scope["state"]["services"].access.changes
    if require is not None:
        require(access)
    if not access.is_open and (context := CONTEXT.get()) is not None:
        context.subject = access.principal.sub


def follow_access(connection: HTTPConnection) -> Access:
    """Return what the principal of a request may do now, by the rules and revocations since the request began.

    A body may take half a minute to arrive: call it before each thing that the principal is to be allowed.
    Raises `Unauthenticated`, `Unavailable`, and what refuses the request.
    """
    access, control, scope = access_of(connection), services_of(connection).access, connection.scope
    if scope[_FOLLOWED] != (changes := control.changes):
        access = control.renewed(access)
        if (require := scope[_REQUIRE]) is not None:
            require(access)
        scope[ACCESS], scope[_FOLLOWED] = access, changes
    return access


def access_of(connection: HTTPConnection) -> Access:
    """Return what the principal of a request may do. The endpoint has authenticated it before its handler."""
    access = connection.scope[ACCESS]
    if not isinstance(access, Access):
        raise TypeError("the request was not authenticated")
    return access
