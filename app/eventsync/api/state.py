"""What every handler may use: made once by the lifespan of `eventsync.application`, carried in the ASGI state."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import HTTPConnection

from eventsync.concurrency.held_bytes import HeldBytes
from eventsync.concurrency.offload import Offload
from eventsync.nodestorage import NodeStorage
from eventsync.settings import Settings
from eventsync.stores.archive.archive import Archive
from eventsync.sync.catch_up.time_travel import TimeTravelReads
from eventsync.sync.operating import Operating
from eventsync.sync.service import SyncService


@dataclass(frozen=True, slots=True)
class Services:
    """The collaborators of the handlers."""

    settings: Settings
    storage: NodeStorage
    sync: SyncService
    past: TimeTravelReads
    archive: Archive
    operating: Operating
    offload: Offload
    held: HeldBytes


def services(connection: HTTPConnection) -> Services:
    """The process's services, as the lifespan left them in `scope["state"]`."""
    found = connection.scope["state"]["services"]
    if not isinstance(found, Services):
        raise TypeError("the application runs without its lifespan")
    return found
